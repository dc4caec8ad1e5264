"""Models on disk by the digest of their manifest: written once, never changed, loaded verified."""

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

from adapters.meta_init import MetaInit, load_meta_init, save_meta_init
from adapters.model_file import Model, load_model, save_model
from pipeline.crash_points import crash_point

_NAME = re.compile(r"[0-9a-f]{32}")
_GONE = ".gone"


class ModelShelf:
    """Folder of models, meta-inits and bake-off results, keyed by digest.

    Args:
        folder: Made when missing.
        cached: Models kept in memory.
    """

    def __init__(self, folder: Path, cached: int = 16) -> None:
        self.folder, self._cached = folder, cached
        self.put_bytes = 0
        """Bytes that came to the shelf through this object."""
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._meta_inits: dict[str, MetaInit] = {}
        for name in ("models", "meta-inits", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def model(self, digest: str) -> Model:
        """Return a model.

        Raises:
            ModelFileError: It is not there or not what its digest says.
        """
        model = self._models.get(digest)
        if model is None:
            model = load_model(self.model_folder(digest), digest)
            self._models[digest] = model
            while len(self._models) > self._cached:
                self._models.popitem(last=False)
        self._models.move_to_end(digest)
        return model

    def model_folder(self, digest: str) -> Path:
        """Return where a model lies."""
        return self.folder / "models" / _name(digest)

    def put_model(self, model: Model) -> str:
        """Store a model; return its digest."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            made = Path(scratch) / "model"
            digest = save_model(made, model)
            self._move(made, self.model_folder(digest))
        return digest

    def meta_init(self, digest: str) -> MetaInit:
        """Return a meta-init.

        Raises:
            ModelFileError: It is not there or not what its digest says.
        """
        found = self._meta_inits.get(digest)
        if found is None:
            found = load_meta_init(self.meta_init_folder(digest), digest)
            self._meta_inits = {digest: found}
        return found

    def meta_init_folder(self, digest: str) -> Path:
        """Return where a meta-init lies."""
        return self.folder / "meta-inits" / _name(digest)

    def put_meta_init(self, meta_init: MetaInit) -> str:
        """Store a meta-init; return its digest."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            made = Path(scratch) / "meta-init"
            digest = save_meta_init(made, meta_init)
            self._move(made, self.meta_init_folder(digest))
        return digest

    def put_result(self, result: bytes) -> str:
        """Store a bake-off's answer; return its digest."""
        digest = "sha256:" + hashlib.sha256(result).hexdigest()
        path = self.folder / "results" / _name(digest)
        if not path.exists():
            scratch = path.with_suffix(f".{os.getpid()}")
            with scratch.open("wb") as file:
                file.write(result)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            self.put_bytes += len(result)
        else:
            os.utime(path)
        return digest

    def result(self, digest: str) -> bytes:
        """Return a bake-off's answer.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is not what its digest says.
        """
        found = (self.folder / "results" / _name(digest)).read_bytes()
        if "sha256:" + hashlib.sha256(found).hexdigest() != digest:
            raise ValueError(f"the stored bake-off result {digest} was changed on disk")
        return found

    def result_named(self, name: str) -> bytes | None:
        """Return the result of this name, or None where there is none."""
        try:
            return (self.folder / "results" / name).read_bytes()
        except FileNotFoundError:
            return None

    # ---------------------------------------------------------------- what lies there

    def things(self) -> list[Path]:
        """Return every model and result; meta-inits are made by people and left to them."""
        found = [p for kind in ("models", "results") for p in (self.folder / kind).iterdir()]
        return sorted(p for p in found if _NAME.fullmatch(p.name))

    def drop(self, thing: Path) -> None:
        """Remove a model or a result: it is there whole or not at all."""
        gone = self.folder / f"{thing.name}{_GONE}"
        thing.replace(gone)
        crash_point("inside-shelf-drop")
        _remove(gone)

    def tidy(self, before_s: float) -> None:
        """Remove what processes left that died while they wrote or removed something.

        Args:
            before_s: Seconds since the epoch; younger things may be in the making.
        """
        known = {"models", "meta-inits", "results"}
        left = [p for p in self.folder.iterdir() if p.name not in known]
        left += [p for p in (self.folder / "results").iterdir() if not _NAME.fullmatch(p.name)]
        for path in left:
            if path.name.endswith(_GONE) or put_s(path) < before_s:
                _remove(path)

    def size(self, since_s: float = 0.0) -> int:
        """Return the bytes of what was put here since then, seconds since the epoch."""
        things = [*self.things(), *(self.folder / "meta-inits").iterdir()]
        return sum(_bytes(thing) for thing in things if put_s(thing) >= since_s)

    def _move(self, made: Path, to: Path) -> None:
        if to.exists():
            shutil.rmtree(made)
            os.utime(to)
        else:
            made.replace(to)
            self.put_bytes += _bytes(to)


def put_s(thing: Path) -> float:
    """Return when something was last put on the shelf, seconds since the epoch; inf: it is gone."""
    try:
        return thing.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _bytes(thing: Path) -> int:
    files = thing.iterdir() if thing.is_dir() else [thing]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _name(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or not hexadecimal.isalnum():
        raise ValueError(f"{digest!r} is no sha256 digest")
    return hexadecimal[:32]
