"""The errors of this package.

ValueError
  DetectorError            a setting or an input is wrong: names key, value and fix
  DetectorSnapshotError    packed state cannot be trusted or read: start that detector afresh
"""


class DetectorError(ValueError):
    """A detector's name, parameter or input is wrong.

    Attributes:
        key: What is wrong, in the words of the configuration (``detector.drift_confidence``).
        value: The value found, as a short repr.
        fix: What to write instead.
    """

    def __init__(self, key: str, value: object, fix: str) -> None:
        shown = repr(value)
        self.key = key
        self.value = shown if len(shown) <= 60 else f"{shown[:57]}..."
        self.fix = fix
        super().__init__(f"{key} is {self.value}: {fix}")


class DetectorSnapshotError(ValueError):
    """Packed detector state is damaged, of another format, or of another River version.

    The caller restarts that detector in warm-up and records it as a decision.
    """
