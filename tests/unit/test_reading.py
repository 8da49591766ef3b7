import pytest

from inventory.errors import InputError
from inventory.loading.policy_file import load_policy
from inventory.loading.problems import LoadingError
from inventory.loading.reading import read_bounded


def test_h31_no_more_of_a_file_is_read_than_may_be_used(tmp_path):
    path = tmp_path / "policy.toml"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    assert len(read_bounded(path, 1000)) == 1001
    with pytest.raises(LoadingError, match="larger than 10 MiB"):
        load_policy(path)


def test_h31_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(InputError, match=r"none.toml: cannot be read: No such file"):
        read_bounded(tmp_path / "none.toml", 10)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_bounded(tmp_path, 10)
