"""Pure: every size, count and time limit of the data path and the control path, each with its reason.

Nothing waits, buffers or accepts without a name from this page. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# --- Before a peer has proved who it is ---------------------------------------------------------------------------
PREAUTH_TIMEOUT = 10.0
"""One total deadline from accept to the peer's ACCEPT: first byte, preface, TLS, HELLO. No later stage resets it
(C24)."""
PREAUTH_MAX = 1024
"""Connections that may be in that stage at once; when full, the one that has waited longest is closed (C23)."""
GUESTS_MAX = 512
"""Connections with a preface that a gateway's supervisor holds at once; when full, the oldest is closed (C23)."""
PREFACE_MAX = 256
"""Bytes of a relay or enrolment preface line; ours are under 120."""
PREFACE_POLL = 0.02
"""Between two looks at a preface line that is not complete yet: a line normally comes in one segment."""
HANDSHAKE_MAX_BYTES = 64 * KIB
"""Bytes read from a peer during the TLS handshake; a chain of 3 certificates of 16 KiB fits."""

# --- Certificates (C27, H08) --------------------------------------------------------------------------------------
CERTIFICATE_MAX_BYTES = 16 * KIB
CHAIN_MAX = 3
SAN_MAX = 8
EXTENSIONS_MAX = 16
"""Extensions in a certificate; ours have 6."""
CSR_MAX_BYTES = 16 * KIB
CERTIFICATE_LIFETIME = 24 * 3600.0
"""A leaf's life; renewed at half of it, so a host survives 12 h without any issuer."""
RENEWAL_JITTER = 0.1
"""Renewal happens at 50 % of life, give or take this share of life (F36)."""
CLOCK_TOLERANCE = 300.0
"""How far two clocks may differ; leaves start this much in the past."""
INTERMEDIATE_LIFETIME = 365 * 86400.0
OUTAGE_WARNED = 86400.0
"""With less than this until the first certificate ends, and nobody to renew it, a node says so."""
RENEWAL_OVERDUE = 0.2
"""Below this share of its life a certificate should have been renewed long ago: renewal begins at half."""
ISSUER_WARNED = 30 * 86400.0
"""Before the issuer's or the root's end: nothing renews those by itself."""
ROOT_LIFETIME = 3650 * 86400.0

# --- Enrolment ----------------------------------------------------------------------------------------------------
TOKEN_LIFETIME = 3600.0
TOKEN_LIFETIME_MAX = 365 * 86400.0
"""A token that is good for longer is a password, and somebody will lose it."""
TOKEN_MAX_CHARS = 4096
ENROLMENT_MAX_BYTES = 64 * KIB
"""One enrolment message; the largest is a certificate chain."""
ENROLMENT_GUEST_BYTES = HANDSHAKE_MAX_BYTES + 2 * ENROLMENT_MAX_BYTES
"""All that one enrolment connection may send, TLS included: a flood inside TLS ends here as well (C26)."""
SEALED_MAX_BYTES = 16 * KIB
"""The issuer's key and certificate, sealed to another gateway: some 1.5 KiB."""
ENROLMENT_REFUSAL_TIME = 0.5
"""A refused guest hears of it this long after it asked, whatever the cause was and however long finding it took
(H10)."""
ENROLMENT_PATIENCE = 15.0
"""How long a joining host keeps trying while no gateway answers; a gateway started just before it needs a second."""
CERTIFICATE_LIFETIME_MIN = 5.0
"""Shorter than this a node would do little else than renew."""
NUDGE_TIMEOUT = 2.0
"""For a gateway to take note of a change that it would find by itself within a second."""
APPEND_TRIES = 20
"""An operator's command that others kept overtaking this often gives up; each try takes milliseconds."""

# --- Tunnels ------------------------------------------------------------------------------------------------------
WINDOW_INITIAL = 64 * KIB
"""Per stream and direction, until its reader took the half of it: what a reader that never reads can hold (F30)."""
WINDOW_USUAL = 256 * KIB
"""What it has from then on, while the budget lasts. At 1 ms round trip it allows 250 MB/s."""
WINDOW_MAX = 2 * MIB
"""A flow that keeps draining its window has it grown up to this."""
WINDOWS_GROWN_MAX = 24 * MIB
"""All that windows of a process have grown beyond WINDOW_INITIAL. With it 500 readers that stop hold less than
500 x 128 KiB, whatever they did before (F30)."""
WINDOW_GROWTH_SHARE = 8
"""A window may grow by this part of what is left of it: 3 MiB at first, 256 KiB when there are 2 MiB left."""
FRAME_BODY_MAX = 65535
"""The header's length field is 16 bits."""
CONTROL_BODY_MAX = 4 * KIB
"""HELLO, OPEN, ACCEPT, REFUSE, GOAWAY: small JSON; larger is a protocol error."""
STREAMS_PER_TUNNEL = 20000
STREAMS_PER_PROCESS = 50000
OPENS_PER_SECOND = 20000
"""Streams a peer may open on one tunnel per second, averaged over a burst of as many (C29)."""
TUNNEL_PENDING_MAX = 1 * MIB
"""Bytes waiting to be written to a tunnel; above it no local socket is read for that tunnel."""
SHARE_MAX = TUNNEL_PENDING_MAX
SHARE_FIRST = 16 * KIB
"""Bytes that may lie encrypted, and again unsent in the kernel, before it is known how fast the link is: nothing can
overtake them (F21)."""
SHARE_MIN = 1 * KIB
"""The same on the slowest link: most of a packet."""
UNSENT_MIN = 4 * KIB
"""What may lie unsent in the kernel on the slowest link. With less than a packet there BBR believes that there is
little to send, and never unlearns that the link was fast once: more than half of what it sends is lost then."""
PACE_AHEAD = 0.1
"""Seconds of sending that may lie there once it is known; from 10 MB/s on it is SHARE_MAX."""
PACE_INTERVAL = 0.25
"""Between two looks at how fast a link is."""
PACE_SOON = 0.002
"""The same while sixteen shares went out since the last look."""
PACE_LOOKS = 4
"""So many intervals are judged together while there is always something to send: more than most round trips."""
PACE_LOSS_MAX = 0.25
"""Of what went out lately, the share that went out again: above it our end is held to what arrives."""
PACE_RATE_MIN = 1 * KIB
"""Bytes per second that it may always send."""
EARLY_MAX = WINDOW_INITIAL
"""Bytes sent on a stream before its ACCEPT, kept so that they can be sent again after a refusal."""
TUNNEL_BUFFERED_MAX = 128 * MIB
"""Bytes that wait here for slow readers of one tunnel's streams; above it the slow reader at hand is cut, not the
tunnel. 1,600 readers that have stopped altogether fit."""
PROCESS_BUFFERED_MAX = 256 * MIB
"""The same for all tunnels of a process."""
TRIM_AFTER = 16 * MIB
"""When this much of what waited for slow readers has gone, free memory is given back to the system; it takes
milliseconds."""
ANSWERS_MAX = 250000
"""Frames waiting for a peer that does not read. Honest ones stay far below: DATA stops at TUNNEL_PENDING_MAX, and every
stream has a handful of others."""
OPENS_PER_READ = 256
"""More OPENs than this in one read of a tunnel, and the next read is a small one: others get their turn (C29)."""
OPENS_PER_TURN = 32
"""OPENs of one tunnel that are decided and connected in one turn, 0.1 ms each; what is more waits for the next ones,
and costs nothing when it was reset by then (C29)."""
OPENS_LATE_MAX = 8192
"""OPENs that may wait so; above it the tunnel is not read until some had their turn."""
STREAM_TURN_BUDGET = 256 * KIB
"""Bytes read from one local socket in one turn of the loop, so that a bulk transfer does not delay a keystroke."""
HEARTBEAT_INTERVAL = 5.0
HEARTBEAT_MISSES = 3
"""A silent tunnel is given up after 15 s; TCP alone would take 15 minutes to 2 hours (F11)."""
TUNNEL_IDLE = 600.0
"""A tunnel without streams is closed after this, unless it carries the control stream."""
TUNNELS_PER_PEER = 128
"""At one worker. A peer has one for each of its workers (WORKERS_MAX), as many again for each generation of them that
has not ended yet, and those whose certificate was renewed under a stream that goes on; all may come to the same worker
of ours. More than this is no use to anybody honest."""
CONTROL_STREAMS_PER_TUNNEL = 2
"""One, and one that is about to end."""
DIAL_TIMEOUT = 3.0
"""TCP connect to a tunnel peer; after it the path through a gateway is tried."""
CONNECT_TIMEOUT = 5.0
"""An agent's connect to its own instance's target."""
OPEN_WAIT_TIMEOUT = 15.0
"""How long an accepted local connection may wait for a stream, all tries together."""
KEEPALIVE_IDLE = 60
"""Whole seconds that a connection to a machine without an agent rests before its kernel is asked whether it is there.
Below the five minutes after which firewalls and NAT forget a connection at the earliest."""
KEEPALIVE_INTERVAL = 15
KEEPALIVE_PROBES = 4
"""Unanswered in a row, after which the connection is over: a machine that vanished holds a stream for two minutes."""
TARGET_LOOKUP_INTERVAL = 10.0
"""Between two look-ups of the name in an instance's target; the data path uses the last answer."""
TARGET_LOOKUP_TIMEOUT = 5.0

# --- Paths through a gateway --------------------------------------------------------------------------------------
TICKET_LIFETIME = 30.0
SPLICE_CHUNK = 256 * KIB
"""Bytes moved by one splice(2) call; the pipe between two sockets is made this large where the kernel allows."""
SPLICES_MAX = 4000
PATH_TIMEOUT = 8.0
PATH_HEDGE = 0.5
"""A gateway that does not answer a host's question for a path is not waited for: the next one is asked as well."""
PATH_PATIENCE = 3.0
"""A tunnel through one of several gateways that is not up by then is tried through the next one. Over a link of 64
kbit/s a handshake takes 1 s."""
PATHS_ASKED_MAX = 256
"""Offered paths that wait for one host, and dials back to gateways that one host has under way."""

# --- Agentless hosts ----------------------------------------------------------------------------------------------
SSH_CERTIFICATE_LIFETIME = 3600.0
"""A gateway's user certificates: whoever steals one has it for so long (C14). They are renewed at half of it."""
CREDENTIAL_MAX = 64 * KIB
"""A sealed private key, in base64; the largest that ssh-keygen makes (RSA with 16,384 bits) has 13 KB."""
GATEWAY_KEYS_MAX_BYTES = 64 * KIB
"""What a gateway publishes of its keys: some 3 KiB, most of it its certificates."""
SSH_SUSPENSION = 60.0
"""A host that made an ssh worker hang is left alone for so long, then twice as long ..."""
SSH_SUSPENSION_MAX = 3600.0
REACH_LOOK = 60.0
"""Between two looks for what time alone changes of how hosts are reached: an allowance ends, a clock is set."""
ALLOWANCE_WARNING = 14 * 86400.0
"""`status` and `doctor` speak of an allowance that ends within these seconds."""
LAST_HOP_LINE_MAX = 4 * KIB
"""The line with which a data worker asks the ssh worker for a channel, and the answer."""
LAST_HOP_QUEUE_WAIT = 0.02
"""Until a data worker knocks again at an ssh worker whose queue of questions is full."""
SSH_TAKEOVER = 15.0
"""A gateway that became another version has its new ssh worker serve once that has reached the hosts that the old one
reaches, at the latest after this: a start, and a host that lets nobody in for a moment and is tried a second time."""
SSH_WORKERS_BEFORE_MAX = 8
"""Of earlier versions, each with streams that have not ended: some 40 MB of memory. One more upgrade in place ends the
oldest, with what it carries."""
SSH_SAID_LOOK = 0.01
"""How often a gateway that is about to be replaced looks whether its ssh worker has read all it was told."""
SSH_BEAT = 0.5
"""Between two signs of life of a gateway's ssh worker."""
SSH_SILENT = 3.0
"""An ssh worker that has said nothing for so long hangs, on something that a host sent it: it is killed, so that the
other hosts are back within 5 s (F42)."""
SSH_CONNECT_TIMEOUT = 4.5
"""From the dial to a session that is authenticated, all in all: an sshd that stalls is given up within 5 s (F42), and a
`LoginGraceTime` or `MaxStartups` slot of an honest one is held no longer."""
SSH_KEEPALIVE = 3.0
"""Between two questions to a silent sshd ..."""
SSH_KEEPALIVE_MISSES = 2
"""... and so many without an answer, when the next one is due, mean that it is gone: after 9 s (F11). TCP by
itself tries again 6.2 s and then 12.6 s after a loss: a link that is back in between is not waited for so long."""
SSH_BEFORE_MAX = 256 * KIB
"""Bytes that an sshd may send before the login is over: version, keys, a banner. Honest ones send 4 KiB."""
SSH_WINDOW = 2 * MIB
"""Per channel: what a host may send that nobody here has read. OpenSSH's own; 20 MB/s at a round trip of 100 ms."""
SSH_PACKET = 32 * KIB
"""Data of one packet, as every implementation must take it (RFC 4253, 6.1)."""
SSH_READ_MAX = 256 * KIB
"""Read from one stream in one turn."""
SSH_UNSENT_MAX = 1 * MIB
"""Waiting to be sent to one host; above it none of its streams is read."""
SSH_UNREAD_MAX = 32 * MIB
"""Above it the host asks and never reads what it asked for. Streams do not come near: they stop at SSH_UNSENT_MAX, with
one read each under way."""
SSH_PACKETS_PER_TURN = 512
"""Looked at for one host before the others get their turn: 5 ms."""
SSH_REKEY_BYTES = 16 * 1024 * MIB
"""Sent under one key; for AES OpenSSH's own limit is four times as much. A key exchange stops streams for some ms."""
SSH_IDLE_MESSAGES_MAX = 2000
"""Messages a second that carry nothing for any stream; OpenSSH sends some a minute (C35)."""
SSH_CHANNELS_MAX = 4000
"""Of one host."""
SSH_ASK_TIMEOUT = 5.0
"""From accept on the worker's socket to the end of the line that says what is wanted."""
SSH_ASKING_MAX = 1000
"""Connections in that stage; when full, nobody is accepted until one is through."""
SSH_CERTIFICATE_WAIT = 2.0
"""For the supervisor to sign a certificate: it does so at once."""
SSH_OUTPUT_MAX = 4 * MIB
"""Of a command run on a host, each of its two outputs."""
SSH_RETRY_FIRST = 0.5
SSH_RETRY_MAX = 4.0
"""Between two tries to reach an sshd, at most and with full jitter: it is back within 5 s of the cause's end."""
SSH_AUTH_RETRY_FIRST = 30.0
SSH_AUTH_RETRY_MAX = 600.0
"""The same after a login that sshd refused: OpenSSH 9.8 adds 5 s of penalty for each, and shuts the address of ours out
for all users when they add up (F41)."""
SSH_DIALS_AT_ONCE = 32
"""Hosts that one worker dials at the same time: a handshake is 5 ms of CPU."""
SSH_UP_SETTLED = 10.0
"""A connection that lasted so long was a good one: the next one is tried at once."""

# --- Control ------------------------------------------------------------------------------------------------------
CONTROL_MESSAGE_MAX = 16 * MIB
"""One message of the control stream; the largest is a full snapshot."""
CONTROL_WORDS_MAX = 1000
"""Characters of a reason or an error in a control message."""
UPDATE_PART_BYTES = 4 * MIB
"""A larger update goes out in parts, so that other messages get their turn between them."""
UPDATE_PARTS_MAX = 64
"""Parts of one update that a host takes: what a slice on disk may have."""
STREAMS_LISTED = 5000
"""Live streams that a host tells its gateway about; there may be more."""
SESSION_QUESTIONS = 16
"""Questions of one host that a gateway works on at a time; the next one waits, and that host with it."""
RETURN_PATIENCE = 6.0
"""For a host whose agent is replaced in place: whoever wants a path to it, or from it, waits for its control stream at
most this long. A start takes one or two seconds, on a busy machine more; PATH_TIMEOUT is longer."""
RETURN_NOTICE = 1.0
"""Before it is replaced an agent says so to its gateways, and hears them out, at most this long."""
REPORT_INTERVAL = 0.05
"""Reports of one host count at most this often: each may concern every other host."""
RENEWAL_INTERVAL = 1.0
"""Certificates for one host are issued at most this often."""
JSON_DEPTH_MAX = 32
"""Nesting accepted before decoding (H16)."""
LEASE = 15.0
REGISTRY_RETRY_FIRST = 0.2
REGISTRY_RETRY = 2.0
"""Between two tries to read a registry that failed or whose log was refused, at most; with full jitter (F35)."""
REGISTRY_TIDY = 600.0
"""About so often a gateway looks for what killed commands left in the registry: one small question."""
REGISTRY_PATIENCE = 2.0
"""How long a host that connects may wait for what the registry says of it, before what is kept on disk counts."""
REGISTRY_AWAY = 5.0
"""After such a wait, for how long nobody else is made to wait for the same."""
REGISTRY_REOPEN = 5.0
"""For a registry that was closed in order to be moved to take changes again, when the move has failed."""
CONTROL_REQUEST_TIMEOUT = 10.0
CONTROL_RATE_MIN = 4 * KIB
"""Bytes of a message that a peer takes per second, on top of that: half of what a link of 64 kbit/s carries."""
BACKOFF_FIRST = 0.2
BACKOFF_MAX = 15.0
FIRST_LEASE = BACKOFF_MAX + LEASE
"""After a gateway's start: a host that it lost may have begun its longest wait just before the gateway was there."""
TWIN_TURNS = 5
"""More turns than this of two agents under one identity, within ...

An agent that is started anew leaves one behind at most; the backoff of a second machine makes six in 10 s."""
TWIN_WATCH = 300.0
"""... so many seconds are a warning: one that is sent away comes back every 15 s at the latest."""
CATALOG_LOOK = 30.0
"""Between two looks at our part of Consul's catalog: what others did to it is mended within a minute (F51)."""
CATALOG_PAUSE = 0.05
"""Between two transactions on the catalog: at most 20 a second, each with up to 63 entries."""
CATALOG_READ_PAUSE = 0.01
"""Between two service names whose instances are read."""
CATALOG_PLANNED = 200
"""Nodes of the catalog compared before everything else gets its turn."""
CATALOG_TRIES = 3
"""How often a node that others change at the same moment is tried before it is left until the next look."""
CATALOG_RELEASE = 3.0
"""To give the catalog's lock away at the end of the process; without an answer it ends by itself."""
INSTANCES_PER_HOST = 1000
"""Instances one host may report by its own word (H26)."""
IMPORTS_MAX = 32
"""Imports of one gateway: each is one question that waits in Consul, and half of the connections that we may have."""
IMPORT_PACE = 0.05
"""Between two questions of one import: changes that come faster are heard of together."""
IMPORT_LINGER = 1.0
"""For how long an instance that Consul lists no more still takes streams, of hosts that have not heard yet."""
IMPORT_RETRY_MAX = 5.0
"""Between two questions to a Consul that does not answer, at most; all of them wait a random part of it."""
ADMIN_MESSAGE_MAX = 16 * MIB
ADMIN_CONNECTIONS = 64
ADMIN_TIMEOUT = 10.0
"""From accept to the last byte of the request."""
ADMIN_ANSWER_TIMEOUT = 30.0
"""How long a command waits for its agent, unless it says otherwise (a drain has a deadline of its own)."""

# --- Processes ----------------------------------------------------------------------------------------------------
DRAIN_DEADLINE = 30.0
"""SIGTERM: how long live streams may go on."""
WATCHDOG_SHARE = 0.5
"""Of the time that a service manager waits for a sign of life: one may be late by as much again."""
WATCHDOG_FASTEST = 0.1
"""However little time it gives: signs of life must not become the work."""
STATUS_MAX_CHARS = 500
"""Of the line that a service manager shows for a node; a reload's error with its hint fits."""
REVOCATION_NOTICE = 0.1
"""How long a gateway keeps a revoked host's tunnel, so that the host hears of it. Its peers know by then."""
BIND_PATIENCE = 3.0
"""How long a node waits at its start for a port that its killed predecessor still holds."""
BIND_RETRY_FIRST = 0.5
BIND_RETRY_MAX = 10.0
"""Between two tries to bind a service's address that somebody holds: the first, growing to the last."""
DRAIN_NOTICE = 0.5
"""Between telling peers that we are going and taking no more streams: they hear of it in well under this."""
DRAIN_LOOK = 1.0
"""How often an operator's drain asks which streams a host still has."""
DRAIN_POLL = 0.2
"""How often a drain looks whether streams are left."""
RENEWAL_RETRY = 30.0
"""Between two tries to get a new certificate, at most; there are hours left when the first is made."""
RENEWAL_RETRY_ENDED = 10.0
"""The same once the old one has ended: without one the node can do nothing else."""
SAVE_DELAY = 0.2
"""Changes of what is known are written to disk together, at most this late."""
COUNT_INTERVAL = 1.0
"""Instances are counted for the metrics page at most this often: what reads it does so every few seconds."""
PUBLISH_INTERVAL = 0.05
"""A host brings its names, listeners and checks in line at most this often; the first change waits for nothing, and the
worker hears of each at once."""
SAVE_RETRY = 5.0
"""Between two tries to write them to a disk that is full or broken (F26)."""
WORKERS_MAX = 8
"""Data workers of one node: each is a process of about 45 MB, and holds a tunnel of its own to every peer it uses."""
OLD_GENERATIONS_MAX = 2
"""Generations of workers that may still be ending: while there are as many, SIGHUP starts no further one."""
GOODBYE_GRACE = 1.0
"""Between the goodbye on a tunnel and its end: a stream that the peer opens before it has heard of it is served."""
RETIRE_LOOK = 0.2
"""How often a worker that is to end looks whether anything is left."""
LINK_PATIENCE = 2.0
"""Whoever needs a path while a control stream, its own or the other end's, is just being opened waits for it, at most
this long."""
CONTROL_MOVE_SPREAD = 5.0
"""When a gateway has new workers, each host moves its control stream at a random moment within this: 1,000 hosts are
then 200 a second."""
WORKER_START_TIMEOUT = 10.0
PROBE_TIMEOUT = 60.0
"""For a process that imports all of a version just installed, which Python may have to compile first."""
TRIAL_START = 30.0
"""Another version that is tried gives its first sign of life within this: it has read the home by then."""
TRIAL_BEAT = 1.0
TRIAL_SILENT = 10.0
"""One that gives no sign of life (every TRIAL_BEAT) for so long stands still, and is ended."""
TRIAL_READY = 60.0
"""For it to be ready, and for the rest of its trial after that."""
TRIAL_LINKED = 20.0
"""For it to reach a gateway, where the version before did. Workers of that one carry everything until then."""
TRIAL_SPAN = 5.0
"""So long it has to serve. What fails later is for whoever upgrades to notice; what fails at all fails early."""
TRIAL_END = 5.0
"""For its process to end once it has handed back what it had, or has closed its end of the socket."""
WORKER_SEND_TIMEOUT = 10.0
"""A worker that has not taken a message for so long hangs: it is ended and another one started."""
WORKER_OUTBOX_MAX = 10000
"""Messages that wait for one worker; it hangs as well when there are more."""
WORKER_BEHIND = 500
"""Messages that wait for a worker; with more it is handed no connections of programs on agentless hosts, who may
make as many as they like: each has two descriptors, and a full outbox costs the worker its life."""
WORKER_SETTLED = 2.0
"""A worker that served for so long is replaced at once when it dies; one that dies sooner makes the next one wait."""
SHARE_LEAD = 2
"""Streams or tunnels by which a worker may be ahead of another before it lets that one take connections first ..."""
SHARE_LEAD_DIVISOR = 8
"""... plus this part of what the other one carries: at many, a small difference is none."""
ACCEPT_GRACE = 0.005
"""How long it lets the others: enough for an idle one to wake, and nobody notices when one hangs."""
RESERVED_FDS = 64
"""Kept free for the control path when data connections use up the rest (F29)."""

LAG_PROBE = 0.25
"""Between two looks at how late a timer is: 240 in a minute are enough for a 99th percentile. Ten a second were two
thirds of what an idle process did."""
LAG_WINDOW = 60.0
"""What `status` says of loop lag is that of about the last minute."""
LAG_WARNED = 0.05
"""A 99th percentile above this in the last minute is a warning: more than twice the goal of 20 ms."""
REPORT_QUIET = 5.0
"""A worker with nothing to tell says at least this often how late its loop was."""
WORKER_SILENT = 3 * REPORT_QUIET
"""A worker that has said nothing for so long is a warning. The time counts in looks of the supervisor, so that a node
that was stopped as a whole, or its machine suspended, finds nobody silent when it goes on ..."""
WORKER_HANGS = 3 * REPORT_QUIET
"""... and so long after that it is replaced, unless something holds it: a stopped one, or one in a debugger, keeps its
streams, and has this time again when it goes on."""

# --- Names --------------------------------------------------------------------------------------------------------
DNS_TTL = 5
"""Seconds a client may keep an answer; addresses are stable, absence is not."""
DNS_UDP_MAX = 1232
"""Largest UDP answer (DNS flag day 2020)."""
DNS_TCP_IDLE = 5.0
DNS_TCP_CONNECTIONS = 100
DNS_QUERY_MAX = 4 * KIB
DNS_TTL_MAX = 60
"""No answer of ours lives longer, whatever asked for it (C40)."""
DNS_NEGATIVE_TTL = 1
"""Seconds a client may believe that a name does not exist: services appear while clients wait for them."""
ADDRESSES_KEPT_SHARE = 0.9
"""Addresses of services no longer seen are remembered until this share of the slice is taken."""
HOSTS_FILE_MAX = 16 * MIB
"""/etc/hosts; block lists of 200,000 lines exist and are 6 MB."""

# --- Health and choice --------------------------------------------------------------------------------------------
CHECK_INTERVAL = 2.0
CHECK_TIMEOUT = 2.0
CHECK_READ_MAX = 64 * KIB
"""Bytes a probe reads from what it checks, headers included (H30)."""
CHECK_READS_MAX = 512
"""Pieces in which they may come: each one costs us a look at all that came before it."""
CHECK_INTERVAL_DEAR = 10.0
CHECK_TIMEOUT_DEAR = 5.0
"""Of tls, ftp and tn3270 checks, unless told otherwise: each costs the target a process, a session or a signature."""
CHECK_INTERVAL_SSH = 30.0
CHECK_INTERVAL_SSH_MIN = 5.0
"""An sshd since 9.8 counts 1 s against whoever leaves without an attempt to authenticate, and shuts a source out that
owes 15 s (PerSourcePenalties): at this interval, and several checks of one sshd, nothing adds up (F41)."""
CHECK_LEAVE = 0.5
"""How long a check waits, once it knows its answer, for the target to end the connection as well."""
CHECK_TN3270_SCREEN = 1.0
"""How long a tn3270 check waits for a first screen, which says that there is an LU behind the negotiation. Some hosts
wait for the terminal to speak first, so none within this time is no failure."""
CHECK_TELNET_MAX = 64
"""Options that a target may raise in a telnet negotiation; real ones raise ten."""
CHECK_SSH_PACKETS = 64
"""Packets of a key exchange; a real one takes three, and the rest is padding by which a peer could keep us busy."""
CHECK_TLS_WARN = 21
"""Days before the end of a certificate from which on a check that passes says so."""
CHECK_RATE_PER_HOST = 4.0
"""Probes a gateway begins per second on one host without an agent, one at a time: what an old box answers besides its
work. Checks that want more of it are made later, none is dropped."""
CHECK_TURN_LATE = 10.0
"""Checks of such a host that wait longer than this for their turn are a warning."""
CHECK_TELL_DELAY = 0.05
"""What is found within it on hosts behind a gateway is one change of placement: after its start there are many."""
CHECK_RISE = 1
"""Successes in a row after which a failing instance passes: recovery within one check (F38)."""
CHECK_FALL = 2
"""Failures in a row after which a passing instance fails: one lost packet takes nothing out of service."""
CHECK_WORDS_STEADY = 2
"""Results in a row with the same new words that make an unchanged verdict be told again with them: words that differ
each time (a clock in a greeting) are told once."""
CHECK_JITTER = 0.1
"""An interval is this share longer or shorter each time, so that checks of one host do not beat together."""
CHECKS_AT_ONCE = 32
"""Probes one process runs at a time; the others wait, which their timeouts do not count."""
CHECK_LATE = 1.0
"""A timeout noticed this much too late says that this machine was stalled, not that the instance failed (F31)."""
CHECK_SPEC_MAX = 2 * KIB
"""Characters of a check spec."""
CHECK_INTERIM_MAX = 4
"""1xx answers before the real one of an http check (H30)."""
EJECT_FIRST = 5.0
EJECT_MAX = 300.0
EJECT_SHARE = 0.5
"""Never more than half of a service's instances are ejected."""
PANIC_SHARE = 0.5
"""Below this share of healthy instances all are used again."""
RETRY_BUDGET = 0.2
"""Second tries may be at most this share of first ones, once past RETRY_FLOOR (F39)."""
RETRY_FLOOR = 10
"""Second tries that are always allowed in a window, so that a quiet service may still use a second instance."""
RETRY_WINDOW = 10.0
"""Seconds over which first and second tries are compared."""
CONNECT_TRIES = 3

# --- Backends that fall over (see routing/governor) ---------------------------------------------------------------
GOVERNOR_BOUND_MAX = 100_000
"""The largest `--max-streams` and `--max-rate`: more is no limit to anybody."""
GOVERNOR_WAIT = 5.0
"""A stream waits for a slot at its instance at most this long: with CONNECT_TIMEOUT still less than the caller's own
OPEN_WAIT_TIMEOUT, so that the caller hears why, and may try another instance."""
GOVERNOR_CHECK_WAIT = 1.0
"""The same for our own checks, of which only some are made at a time."""
GOVERNOR_ANSWER = 2.0
"""So much later a data worker whose supervisor has not said that the wait is over ends it by itself."""
GOVERNOR_QUEUE_MAX = 1000
"""Streams that wait for one instance; each holds a descriptor. With more the caller that waits most loses one."""
GOVERNOR_REST = 0.05
"""A slot whose stream the backend did not end itself is given again after this: it has noticed the end by then."""
GOVERNOR_SECOND = 1.05
"""A rate is kept in any second as the backend sees it: so much later than we it may notice a connection."""
GOVERNOR_FAILURES = 3
"""Connects in a row that failed are an outage, like a check that fails."""
GOVERNOR_RAMP = 30.0
"""After an outage what a backend is given grows to the whole in this time ..."""
GOVERNOR_RAMP_SHARE = 0.1
"""... from this share, of which there is always at least one: somebody has to find out that it is back."""
GOVERNOR_LOOK = 0.25
"""Between two looks at what a backend that comes back may be given."""
GOVERNOR_KEPT = 60.0
"""An instance with a limit that nobody asks for is not watched any more after this."""

# --- Policy -------------------------------------------------------------------------------------------------------
PERMITS_CACHED = 20000
"""Pairs of subject and service whose decision is kept, about 1 kB each; when full, all are decided again."""
PERMIT_USERS_CACHED = 100
"""Users per pair; a peer chooses the names it sends, so they are bounded apart."""

# --- Discovery ----------------------------------------------------------------------------------------------------
DISCOVER_TEXT_MAX = 4 * MIB
"""Characters that are read of what a box prints about its sockets: some 40,000 lines."""
DISCOVER_LINE_MAX = 1 * KIB
"""A longer line is none of theirs."""
DISCOVER_SOCKETS_MAX = 50_000
"""Of one look; a look at so many takes half a second."""
DISCOVER_PEERS_MAX = 10_000
"""Different pairs of an end and a port that are told apart; what is above is counted."""
DISCOVER_PROGRAM_MAX = 64
"""Characters of a program's name."""
DISCOVER_PROGRAMS_KEPT = 4
"""Names of programs that are told of one peer."""
DISCOVER_INTERVAL = 2.0
"""Between two looks at this machine: what is shorter and leaves nothing behind may be missed."""
DISCOVER_INTERVAL_REMOTE = 30.0
"""Between two commands on a box where we are a guest."""
DISCOVER_COMMAND_TIMEOUT = 20.0
DISCOVER_FAILURES = 5
"""Looks in a row that may fail before what was seen until then is reported."""
DISCOVER_LONGEST = 30 * 86400.0
DISCOVER_PROGRESS = 60.0
"""Between two words on stderr that it still looks."""
DISCOVER_NETWORK_FROM = 4
"""Unknown callers of one service out of one network (/24, /64) that become one client, that network."""

# --- Records ------------------------------------------------------------------------------------------------------
LOG_LINE_MAX = 1 * KIB
NOTICES_PENDING_MAX = 64
"""Notices of a worker that its supervisor has not taken yet; what is above is counted and told with the next one."""
FLOWS_KEPT = 10000
FLOW_FILE_MAX = 10 * MIB
"""flows.jsonl is rotated once at this size, so two files bound the disk it takes."""
FLOW_BYTES_PER_SECOND = 140 * KIB
"""Written to flows.jsonl over time; with FLOW_BURST and what the log says meanwhile at most 10 MiB in any minute (F50).
The rest is counted."""
FLOW_BURST = 1 * MIB
FLOW_WRITE_INTERVAL = 0.2
"""How long a finished flow may wait in memory for the others that are written with it."""
FLOW_WRITE_TIMEOUT = 5.0
"""Longer than any healthy write of one batch."""
FLOW_PENDING_MAX = 1 * MIB
"""Bytes of flow records waiting for the disk; a disk that stalls costs records, never streams."""
LOG_EVENTS_PER_SECOND = 10
"""Log lines of one event name; what is above is counted and told with the next line (F50)."""
LOG_EVENT_NAMES_MAX = 1000
METRIC_SERIES_MAX = 1000
"""Distinct label sets of one metric; beyond it a name is counted as `other` (C43)."""
METRICS_REQUEST_MAX = 8 * KIB
METRICS_CONNECTIONS = 64
METRICS_TIMEOUT = 10.0
"""From accept to the last byte of the answer."""
FOREIGN_TEXT_MAX = 200
"""Characters of a peer's text that we print or record."""
