"""Starts Seldon's microservice with a model, on the interfaces that it is told to use.

``python -m deploy.serving.launcher --http-port 9000 --parameters '[...]'``. All options but
``--host`` are those of ``seldon-core-microservice``. Seldon's runtime binds HTTP, gRPC and metrics
to every interface, hard-coded; here the host is replaced on the way to gunicorn and to gRPC.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from typing import Any

COMPONENT = "deploy.serving.component.ServedModel"
LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str]) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="metadrift-model-server", allow_abbrev=False)
    parser.add_argument("--host", default=LOOPBACK, help="interface of all three servers")
    options, others = parser.parse_known_args(arguments)
    # Seldon hands closures to its processes, and the counters are shared by inheritance.
    multiprocessing.set_start_method("fork")
    # Its debug server would listen on every interface, and runs code that a visitor types.
    os.environ.pop("SELDON_DEBUG", None)
    if any(option.split("=")[0] in ("--debug", "--deb", "--de") for option in others):
        parser.error("--debug: Seldon's debug server is not offered; read the logs instead")
    from seldon_core import microservice

    _bind_to(options.host)
    _answer_in_one_piece()
    _refuse_over_grpc()
    _show_our_counters()
    sys.argv = ["seldon-core-microservice", COMPONENT, *others]
    microservice.main()


def _bind_to(host: str) -> None:
    from seldon_core import gunicorn_utils, microservice

    load_config = gunicorn_utils.StandaloneApplication.load_config
    run_grpc = microservice._run_grpc_server

    def load_config_at_host(application: Any) -> None:
        application.options["bind"] = _at(host, application.options["bind"])
        application.options["sendfile"] = False  # see _answer_in_one_piece
        load_config(application)

    def run_grpc_at_host(model: Any, metrics: Any, args: Any, notes: Any, address: str) -> None:
        run_grpc(model, metrics, args, notes, _at(host, address))

    gunicorn_utils.StandaloneApplication.load_config = load_config_at_host
    microservice._run_grpc_server = run_grpc_at_host


def _at(host: str, address: str) -> str:
    return f"{host}:{address.rpartition(':')[2]}"


class _Collected:
    """Takes a socket's place while an answer is being written."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._parts = connection, list[bytes]()

    def sendall(self, data: bytes) -> None:
        self._parts.append(data)

    def send_it(self) -> None:
        if self._parts:
            self._connection.sendall(b"".join(self._parts))
            self._parts = []


def _answer_in_one_piece() -> None:
    """Send head and body in one call, so that a server killed between the two loses no request.

    A router can ask another server again only while nothing of an answer has come.
    """
    from gunicorn.http.wsgi import Response

    begin, close = Response.__init__, Response.close

    def begin_collecting(answer: Any, request: Any, connection: Any, config: Any) -> None:
        begin(answer, request, _Collected(connection), config)

    def close_and_send(answer: Any) -> None:
        close(answer)
        answer.sock.send_it()

    Response.__init__ = begin_collecting
    Response.close = close_and_send


def _refuse_over_grpc() -> None:
    """Give a request that cannot be used its gRPC status, with the reason."""
    import grpc
    from seldon_core import wrapper

    from deploy.serving.messages import RequestError, WrongVersionError
    from deploy.serving.model_server import NotReadyError

    def with_status(method: Any) -> Any:
        def answer(self: Any, message: Any, context: Any) -> Any:
            try:
                return method(self, message, context)
            except WrongVersionError as error:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except RequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except NotReadyError as error:
                context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

        return answer

    server = wrapper.SeldonModelGRPC
    server.Predict = with_status(server.Predict)
    server.SendFeedback = with_status(server.SendFeedback)


def _show_our_counters() -> None:
    """Add the model server's own counters to the page that Seldon's metrics server shows."""
    from seldon_core import microservice
    from seldon_core.metrics import SeldonMetrics

    made: list[Any] = []
    make_rest, page = microservice._make_rest_server_prod, SeldonMetrics.generate_metrics

    def make_rest_with_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(model)
        return make_rest(model, *args, **kwargs)

    def page_with_counters(metrics: Any) -> tuple[str, str]:
        text, kind = page(metrics)
        return text + "".join(model.server.counters.text() for model in made), kind

    microservice._make_rest_server_prod = make_rest_with_model
    SeldonMetrics.generate_metrics = page_with_counters


if __name__ == "__main__":
    main(sys.argv[1:])
