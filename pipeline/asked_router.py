"""A service in small: asks the router about each row, and says what goes into the event."""

from typing import Literal

from deploy.controller import BackendError
from deploy.seldon_gateway import SeldonGateway
from pipeline.data_file import FileRow


class AskedRouter:
    """Asks one request a row.

    Args:
        gateway: Open.
        task_type: Of the model: what its answer is.
    """

    def __init__(
        self, gateway: SeldonGateway, task_type: Literal["classification", "regression"]
    ) -> None:
        self._gateway, self._regression = gateway, task_type == "regression"
        self.unanswered = 0
        self.last_problem = ""

    def __call__(self, row: FileRow) -> dict[str, object]:
        """Return ``prediction`` and ``model_version``; nothing where no answer came.

        The event then goes out without, and the daemon answers it.
        """
        try:
            answer = self._gateway.predict(row.id, row.features)
        except BackendError as error:
            self.unanswered += 1
            self.last_problem = str(error)
            return {}
        values = answer.values
        said: object = max(values, key=values.__getitem__)
        if self._regression:
            (said,) = values.values()
        return {"prediction": said, "model_version": answer.version}
