# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure: the options that every module of the collection has."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  home:
    description:
      - The operator's home, which holds the operator key. The key is used where it is and never read by the module.
      - Without it the program's own default, which knows E(MESHBRIDGE_HOME).
    type: path
  command:
    description:
      - The program, as a name in E(PATH) or as a path.
    type: path
    default: meshbridge
notes:
  - Runs where the operator's home is. Delegate it to that machine.
  - In check mode, where the program or the estate is not there yet, the estate counts as empty.
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the record before and after. There is no secret in it.
    support: full
"""
