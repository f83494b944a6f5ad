"""The weights of `model.init`: read from a file or folder of anyone's, and put into a network.

A file may come from a stranger, so nothing in it is run: it is read as safetensors, or unpickled
with `weights_only`. A tensor is taken where the network has one of its name and shape. All others
of the network stay as they begin without it: the encoder's as `model.encoder_weights` says, which
are fetched only then, the rest at random.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaces import initial_weights
from spaces.config import ModelConfig
from spaces.errors import InputError
from spaces.initial_weights import INIT, is_path
from spaces.paths import MODEL, MODELS
from spaces.text_detection import TextModelConfig
from spaces.textfile import read_bytes
from trainers.durable import file_digest

AnyModelConfig = ModelConfig | TextModelConfig
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder that `save_pretrained` wrote
WITHIN = ("state_dict", "model_state_dict", "model", "net", "weights")  # keys of a checkpoint
ENCODER = "encoder."
NAMED = 3  # tensors that are named one by one
CONFIG_BYTES = 100_000


@dataclass(frozen=True)
class Source:
    """Weights as they lie on disk.

    Attributes:
        path: as the config names it.
        network, encoder: what they are of, where a config beside them says so.
        tensors: by the names that they have there.
    """

    path: str
    network: str | None
    encoder: str | None
    tensors: Mapping[str, Tensor]

    def __str__(self) -> str:
        return (
            self.path if self.network is None else f"{self.path} ({self.network}, {self.encoder})"
        )


@dataclass(frozen=True)
class Match:
    """Which of a source's tensors a network takes.

    Attributes:
        network: what takes them, in words.
        taken: by the network's names.
        shapes: of all tensors of the network.
        reshaped: {name: shape in the source} of those that have another one there.
        unused: names in the source of those that the network takes nothing for.
    """

    source: Source
    network: str
    taken: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    reshaped: Mapping[str, tuple[int, ...]]
    unused: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """The network's tensors that the source has none for."""
        return [n for n in self.shapes if n not in self.taken and n not in self.reshaped]

    @property
    def encoder(self) -> tuple[int, int]:
        """(taken, all) of the encoder's tensors."""
        names = [name for name in self.shapes if name.startswith(ENCODER)]
        return sum(name in self.taken for name in names), len(names)

    def lines(self) -> Iterator[str]:
        """What matched, and what did not."""
        taken, of = self.encoder
        yield (
            f"{INIT}: {self.network} begins with {len(self.taken)} of {len(self.shapes)} tensors "
            f"(encoder: {taken} of {of}) from {self.source}"
        )
        reshaped = [f"{n} {self.shapes[n]}, there {shape}" for n, shape in self.reshaped.items()]
        for what, names in (
            ("of another shape, left as they begin", reshaped),
            ("not there, left as they begin", self.missing),
            ("there, but of no use here", self.unused),
        ):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                yield f"  {len(names)} {what}: {'; '.join(names[:NAMED])}{more}"


def begin(
    config: AnyModelConfig, make: Callable[[str | None], nn.Module]
) -> tuple[nn.Module, Match | None]:
    """Return a network with the weights that its config begins with, and where they are from.

    Args:
        make: name of an encoder's weights, or None for none -> the network.

    Raises:
        InputError: `model.init` cannot be read, or nothing in it fits.
    """
    if not is_path(config.init):
        return make(initial_weights.encoder_weights(config)), None
    source = read(config.init)
    model = make(None)
    match = fit(source, model, config)
    taken, of = match.encoder
    if taken < of and config.encoder_weights is not None:
        model = make(config.encoder_weights)
    model.load_state_dict(match.taken, strict=False)
    return model, match


def digest(path: str) -> str:
    """SHA-256 of the file that `model.init` names, or of the one in its folder."""
    return file_digest(_weights(path)[0])


def read(path: str) -> Source:
    """Read an export, a folder of `save_pretrained`, or a file with a state dict.

    Raises:
        InputError: there is none, it needs code to be read, or it holds no finite tensors.
    """
    file, folder = _weights(path)
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except InputError:
        raise
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{INIT}: {file} cannot be read as weights: {said}") from None
    if not tensors:
        raise InputError(f"{INIT}: {file} holds no tensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{INIT}: {file}: {name} is not finite; no network can begin with it")
    network, encoder = (None, None) if folder is None else _described(folder / "config.json")
    return Source(path, network, encoder, tensors)


def fit(source: Source, model: nn.Module, config: AnyModelConfig) -> Match:
    """Tell what a network takes of a source.

    Where a config says that the weights are of another architecture or decoder, only the encoder's
    count: equal names and shapes mean nothing then.

    Raises:
        InputError: nothing, or they are another encoder's.
    """
    if source.encoder not in (None, config.encoder):
        raise InputError(
            f"{INIT}: {source.path} holds a {source.network} with {source.encoder}, so nothing of "
            f"it fits model.encoder {config.encoder}; write model.encoder: {source.encoder}, or "
            f"draw it only there: {INIT}: {{choices: [null, {source.path}], when: "
            f"{{model.encoder: {source.encoder}}}}}"
        )
    network = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    same = source.network in (None, _network(config))
    wanted = {n: s for n, s in network.items() if same or n.startswith(ENCODER)}
    named = max(_renamed(source), key=lambda there: _fitting(there, wanted))
    taken = {n: there for n, there in named.items() if wanted.get(n) == tuple(there.shape)}
    into = f"{_network(config)} with {config.encoder}"
    if not taken:
        theirs, ours = next(iter(source.tensors)), next(iter(network))
        raise InputError(
            f"{INIT}: none of the {len(source.tensors)} tensors of {source.path} fits "
            f"{into}: it has {theirs} "
            f"{tuple(source.tensors[theirs].shape)}, the network {ours} {network[ours]}; give "
            "weights of this network"
        )
    reshaped = {n: tuple(named[n].shape) for n in wanted if n in named and n not in taken}
    unused = [n for n in named if n not in wanted]
    return Match(source, into, taken, network, reshaped, unused)


def _fitting(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> int:
    return sum(wanted.get(name) == tuple(tensor.shape) for name, tensor in tensors.items())


def _renamed(source: Source) -> Iterator[dict[str, Tensor]]:
    """The tensors under the names that a network may have for them.

    DataParallel, torch.compile and Lightning put a word before all names; a classifier has the
    encoder's tensors without ours.
    """
    tensors = dict(source.tensors)
    while True:
        yield tensors
        for prefix in (ENCODER, f"{ENCODER}model."):
            yield {prefix + name: tensor for name, tensor in tensors.items()}
        first = {name.partition(".")[0] for name in tensors}
        if len(first) != 1 or not all("." in name for name in tensors):
            return
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}


def _network(config: AnyModelConfig) -> str:
    return config.arch if isinstance(config, ModelConfig) else _dbnet(config.decoder)


def _dbnet(decoder: object) -> str:
    return f"DBNet/{decoder}"


def _weights(path: str) -> tuple[Path, Path | None]:
    """(file of the weights, folder of the model, where it lies in one)."""
    given = Path(path)
    if given.is_file():
        return given, None
    if not given.is_dir():
        raise InputError(
            f"{INIT}: {path} does not exist on this machine; put the weights there, or give others"
        )
    if (given / MODELS).is_dir():
        raise InputError(
            f"{INIT}: {path} holds the models of folds; name one of them: {given / MODELS}/fold-1"
        )
    folder = given / MODEL if (given / MODEL).is_dir() else given
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name, folder
    if (given / "config.yaml").is_file():
        raise InputError(f"{INIT}: {path} was exported without its weights; export it with them")
    raise InputError(
        f"{INIT}: {path} must be an export, or a folder with {' or '.join(WEIGHTS)}, or a file "
        f"with a state dict, but has neither {MODEL}/ nor weights"
    )


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{INIT}: {file} holds more than tensors, or no weights at all; what needs code to be "
            "read is not read. Save the tensors alone: torch.save(model.state_dict(), ...), or as "
            "safetensors"
        ) from None
    keys = list(found) if isinstance(found, dict) else []
    for tree in (found, *(found[key] for key in WITHIN if key in keys)):
        if isinstance(tree, Mapping) and tree and all(map(_is_entry, tree.items())):
            return dict(tree)
    told = f"a dict of {', '.join(map(str, keys[:5]))}" if keys else type(found).__name__
    raise InputError(
        f"{INIT}: {file} must hold a state dict, {{name: tensor}}, or have one under "
        f"{', '.join(WITHIN)}, but is {told}"
    )


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _described(file: Path) -> tuple[str | None, str | None]:
    """(network, encoder) that a `config.json` of smp or of our DBNet names, or None of each."""
    try:
        tree = json.loads(read_bytes(file, CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None, None
    if not isinstance(tree, dict):
        return None, None
    ours = "decoder" in tree
    network = _dbnet(tree["decoder"]) if ours else tree.get("_model_class")
    encoder = tree.get("encoder" if ours else "encoder_name")
    named = isinstance(network, str) and isinstance(encoder, str)
    return (network, encoder) if named else (None, None)
