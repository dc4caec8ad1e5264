"""The class that Seldon's runtime loads: ``deploy.serving.component.ServedModel``.

Seldon's runtime answers 500 to whatever it does not expect, unknown paths included, and swallows an
AttributeError while loading; the handlers and ``load`` here mend that.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.serving.messages import RequestError, WrongVersionError, error_reply
from deploy.serving.model_server import ModelServer, NotReadyError

if TYPE_CHECKING:
    from flask import Blueprint
    from flask.typing import ResponseReturnValue

ARM_HEADER = "x-metadrift-arm"
"""Where the router says which arm it chose."""
MOST_BYTES = 8 * 2**20
"""Longest request body."""


class ServedModel:
    """A ``ModelServer`` behind the methods that Seldon's runtime calls.

    Args:
        model_dir: Folder of the model.
        digest: ``sha256:...`` of its manifest.
        version: Name of the model version.
        arm: ``stable`` or ``candidate``, where no router says.
    """

    def __init__(self, model_dir: str, digest: str, version: str, arm: str = "stable") -> None:
        self.server = ModelServer(Path(model_dir), digest, version, arm)
        self.model_error_handler = error_pages()

    def load(self) -> None:
        """Load the model, in the process that answers."""
        try:
            self.server.load()
        except AttributeError as error:
            raise RuntimeError(f"the model cannot be loaded: {error}") from error

    def predict_raw(self, message: Any) -> Any:
        """Answer a request: JSON values over HTTP, a SeldonMessage over gRPC."""
        if not _is_proto(message):
            return self.server.predict(message, _arm_of_request())
        from seldon_core.utils import json_to_seldon_message, seldon_message_to_json

        return json_to_seldon_message(self.server.predict(seldon_message_to_json(message)))

    def send_feedback_raw(self, feedback: Any) -> Any:
        """Count feedback; Seldon's runtime makes a Feedback message of it, over HTTP too."""
        from seldon_core.utils import feedback_to_json, json_to_seldon_message

        _check_worth(feedback)
        self.server.feedback(feedback_to_json(feedback), feedback.reward)
        return json_to_seldon_message({"meta": {"tags": {"model_version": self.server.version}}})

    def health_status_raw(self) -> dict[str, object]:
        """Say whether the model answers."""
        return self.server.health()

    def init_metadata(self) -> dict[str, object]:
        """Say which model version this is."""
        name = self.server.version
        custom = {"digest": self.server.digest}
        return {"name": name, "versions": [name], "platform": "metadrift", "custom": custom}


def _is_proto(message: Any) -> bool:
    return hasattr(message, "DESCRIPTOR")


def _arm_of_request() -> str | None:
    from flask import has_request_context, request

    return request.headers.get(ARM_HEADER) if has_request_context() else None


def _check_worth(feedback: Any) -> None:
    """Refuse feedback that says nothing: in a Feedback message a missing reward looks like 0."""
    from flask import has_request_context
    from seldon_core.flask_utils import get_request

    if not has_request_context() or feedback.HasField("truth"):
        return
    if "reward" not in get_request():
        raise RequestError("reward is missing; send a finite number, 0 too")


def error_pages() -> "Blueprint":
    """Return the handlers that give each kind of error its status, in Seldon's form."""
    from flask import Blueprint, jsonify
    from werkzeug.exceptions import HTTPException

    pages = Blueprint("errors", __name__)
    pages.record_once(lambda state: state.app.config.update(MAX_CONTENT_LENGTH=MOST_BYTES))

    def answer(message: str, status: int, reason: str) -> "ResponseReturnValue":
        return jsonify(error_reply(message, reason)), status

    @pages.app_errorhandler(RequestError)
    def bad_request(error: RequestError) -> "ResponseReturnValue":
        status = 409 if isinstance(error, WrongVersionError) else 400
        return answer(str(error), status, "MICROSERVICE_BAD_DATA")

    @pages.app_errorhandler(json.JSONDecodeError)
    def no_json(error: json.JSONDecodeError) -> "ResponseReturnValue":
        return answer(f"the request is no JSON: {error}", 400, "MICROSERVICE_BAD_DATA")

    @pages.app_errorhandler(RecursionError)
    def too_deep(error: RecursionError) -> "ResponseReturnValue":
        # An answer of 500 would also take the candidate out of the router's hands.
        return answer("the request nests too deeply; send flat rows", 400, "MICROSERVICE_BAD_DATA")

    @pages.app_errorhandler(NotReadyError)
    def not_ready(error: NotReadyError) -> "ResponseReturnValue":
        return answer(str(error), 503, "MICROSERVICE_NOT_READY")

    @pages.app_errorhandler(HTTPException)
    def http_error(error: HTTPException) -> "ResponseReturnValue":
        text = error.description or error.name
        return answer(text, error.code or 500, "MICROSERVICE_BAD_REQUEST")

    return pages
