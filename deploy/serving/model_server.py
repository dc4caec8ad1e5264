"""One model version that answers requests, takes feedback and says whether it is well.

Plain objects in, plain objects out; ``deploy.serving.component`` ties it to Seldon's runtime.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from adapters.feature_schema import FeatureSchema, Rows
from adapters.model_file import Model, Prediction, load_model
from deploy.serving.counters import Counters
from deploy.serving.messages import RequestError, WrongVersionError, answered_by, reply, rows_of

ARMS = ("stable", "candidate")


class NotReadyError(RuntimeError):
    """The model cannot answer; it becomes HTTP 503."""


class ModelServer:
    """A model version in its folder.

    Args:
        model_dir: Folder of ``manifest.json`` and ``weights.safetensors``.
        digest: ``sha256:...`` that the manifest must have; the manifest pins the weights.
        version: How people call the model version; it is in every answer's tags.
        arm: ``stable`` or ``candidate``, where no router says which arm a request came by.

    Raises:
        ValueError: The arm is another word, or the digest or version is empty.
    """

    def __init__(self, model_dir: Path, digest: str, version: str, arm: str = "stable") -> None:
        if arm not in ARMS:
            raise ValueError(f"arm is {arm!r}; use one of {ARMS}")
        for name, value in (("digest", digest), ("version", version)):
            if not value:
                raise ValueError(f"{name} is empty; give the {name} of the model in {model_dir}")
        self.version, self.digest = version, digest
        self._folder, self._arm = model_dir, arm
        self._model: Model | None = None
        self.counters = Counters({"model_version": version})

    def load(self) -> None:
        """Read and verify the model, and try it on a row.

        Raises:
            ModelFileError: A digest differs, or the module cannot be built.
            NotReadyError: Its answer is not finite.
        """
        torch.set_num_threads(1)
        model = load_model(self._folder, self.digest)
        _try(model)
        self._model = model

    @property
    def model(self) -> Model:
        """The loaded model.

        Raises:
            NotReadyError: It has not been loaded.
        """
        if self._model is None:
            raise NotReadyError(f"model version {self.version} is not loaded")
        return self._model

    def predict(self, message: object, arm: str | None = None) -> dict[str, object]:
        """Return the reply to a prediction request.

        Args:
            message: Seldon's message as JSON values.
            arm: The arm that the router chose; None, or any other word: the server's own.

        Raises:
            RequestError: The request cannot be used.
            NotReadyError: The model is not loaded, or its answer is not finite.
        """
        began = time.perf_counter()
        model = self.model
        outcome = "failed"
        rows = None
        try:
            rows = rows_of(message, model.schema)
            request: Mapping[str, object] = message if isinstance(message, dict) else {}
            prediction = model.predict(rows)
            _check_finite(prediction)
            answer = reply(request, model, prediction, self._tags(arm))
            outcome = "ok"
            return answer
        except RequestError:
            outcome = "refused"
            raise
        finally:
            counts, took_s = {outcome: 1.0}, None
            if outcome == "ok" and rows is not None:
                counts["rows"], took_s = len(rows), time.perf_counter() - began
            self.counters.add(counts, took_s)

    def feedback(self, message: Mapping[str, object], reward: float) -> None:
        """Count what an answer was worth, 0 too.

        Args:
            message: Seldon's feedback message; its ``response`` is the answer that was given.
            reward: Finite.

        Raises:
            RequestError: The reward is not finite, or the answer is missing.
            WrongVersionError: Another model version gave the answer.
        """
        if not math.isfinite(reward):
            raise RequestError(f"reward is {reward}; send a finite number")
        version = answered_by(message)
        if version != self.version:
            raise WrongVersionError(
                f"the answer is from model version {version[:80]!r}, this is {self.version!r}; "
                "send the feedback to the version that answered"
            )
        self.counters.add({"feedback": 1.0, "reward": reward})

    def health(self) -> dict[str, object]:
        """Return who answers, once it has answered a row of nothing.

        Raises:
            NotReadyError: It cannot answer.
        """
        _try(self.model)
        return {"status": "ok", "model_version": self.version, "digest": self.digest}

    def _tags(self, arm: str | None) -> dict[str, object]:
        known = arm if arm in ARMS else self._arm
        return {"model_version": self.version, "model_digest": self.digest, "arm": known}


def _try(model: Model) -> None:
    _check_finite(model.predict(_blank(model.schema)))


def _check_finite(prediction: Prediction) -> None:
    if not np.isfinite(prediction.outputs).all():
        raise NotReadyError("the model's answer is not finite: take it out of use")


def _blank(schema: FeatureSchema) -> Rows:
    nothing = (tuple(None for _ in schema.categories),) if schema.categories else ()
    return Rows(np.zeros((1, schema.width)), nothing)
