"""The configuration that HAProxy starts with; from then on its runtime socket changes it."""

from pathlib import Path

from deploy.loopback import LOOPBACK

ARM_HEADER = "x-metadrift-arm"
"""Tells the model server by which arm a request came."""
ARMS = ("stable", "candidate")
"""Names of the two servers in each backend."""
PREDICT_PATHS = ("/api/v1.0/predictions", "/api/v0.1/predictions", "/predict")
FEEDBACK_PATHS = ("/api/v1.0/feedback", "/api/v0.1/feedback", "/send-feedback")
OTHER_PATHS = ("/health/status", "/health/ping", "/metadata")
LONGEST_REQUEST = 65_536
"""Bytes of a request that can be sent once more when a server dies over it."""
MOST_CONNECTIONS = 512
AT_ONCE = "observe layer7 error-limit 1 on-error mark-down"
"""Takes the candidate out at its first failed answer, until a health check is well again.

Left in, each request that is drawn for it would be tried on a dead server first.
"""


def haproxy_config(*, port: int, folder: Path, answer_s: float) -> str:
    """Return the configuration: no server takes requests until the socket says so.

    For each request the arm is drawn at random by the candidate's weight. Taking turns would be
    smoother, but HAProxy's round robin does not hold a share while weights change: between two
    weights that are set one after the other the cycle is shorter or longer than it will be, stable
    can be put off to the next one, and the candidate then gets all that is left of this one. A draw
    has no memory, and its probability is what the unpaired test has to know.

    Predictions change nothing, so one is sent again, to the other arm, when a server is gone, drops
    the connection or does not answer in time. HAProxy itself sends nothing again after a reset
    connection, which is what a killed server leaves behind; so each arm has an inner proxy that
    turns a reset into a status or a closed connection, on which the outer one may act. It can send
    again only what it holds whole, so a request is read to its end before it goes anywhere.

    The stable arm is never taken out: its requests wait some seconds for a server that restarts,
    before they go to the candidate. Feedback counts something, so it is sent once, to the arm whose
    version it names.

    Without ``noreuseport`` a second router on the same port would start without a word, and each
    would get half of the connections.

    A connection to a model server carries one request (``http-server-close``). Kept open beside a
    client's own, it would go on to the address it was made for after the arm has another one: the
    client would have the old champion's answers for as long as it keeps its connection.

    Args:
        port: Of the router, on loopback.
        folder: With a short path; holds the sockets, and the map from model version to arm.
        answer_s: Longest that a model server may take over a request, seconds.
    """
    answer_ms = round(answer_s * 1000)
    stable, candidate = (f"unix@{folder / arm}.sock" for arm in ARMS)
    named = f"req.body,json_query('$.response.meta.tags.model_version'),map_str({versions(folder)})"
    return f"""\
global
    maxconn {MOST_CONNECTIONS}
    nbthread 1
    noreuseport
    tune.bufsize {LONGEST_REQUEST + 1024}
    stats socket {admin(folder)} mode 600 level admin
    stats timeout 10s
    hard-stop-after 10s

defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout http-request 20s
    timeout http-keep-alive 20s
    timeout queue 10s
    timeout check 5s
    timeout server {answer_ms + 20_000}ms
    http-reuse never
    option http-server-close

frontend router
    bind {LOOPBACK}:{port}
    acl feedback path {" ".join(FEEDBACK_PATHS)}
    acl known path {" ".join((*PREDICT_PATHS, *OTHER_PATHS))}
    http-request deny deny_status 404 if !feedback !known
    use_backend feedback if feedback
    default_backend predictions

backend predictions
    balance roundrobin
    http-request set-var(txn.share) srv_uweight(predictions/candidate)
    use-server candidate if {{ rand(100),sub(txn.share) lt 0 }}
    use-server stable if TRUE
    option http-buffer-request
    option httpchk GET /health/status
    http-send-name-header {ARM_HEADER}
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response 502 503 504 response-timeout
    server stable {stable} weight 100 disabled
    server candidate {candidate} weight 0 disabled check inter 1s fall 3 rise 1 {AT_ONCE}

backend feedback
    option http-buffer-request
    retries 0
    acl candidate {named} -m str candidate
    use-server candidate if candidate
    use-server stable if !candidate
    server stable {stable}
    server candidate {candidate}

listen stable
    bind {stable} mode 600
    retries 8
    timeout server {answer_ms}ms
    server model {LOOPBACK}:1 disabled

listen candidate
    bind {candidate} mode 600
    retries 0
    timeout server {answer_ms}ms
    server model {LOOPBACK}:1 disabled
"""


def admin(folder: Path) -> Path:
    """Return the path of the runtime socket."""
    return folder / "haproxy.sock"


def versions(folder: Path) -> Path:
    """Return the path of the map from model version to arm."""
    return folder / "versions.map"
