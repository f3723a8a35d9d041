"""The hostile folders of hostile.py that hold a model: policies, classifiers, shared reward models, adapters."""

# ruff: noqa: ARG001 - every builder takes the same arguments

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_code import code, reward_models, shadows
from hostile_folders import OUTWARD, TERMINAL, Folder, target_of
from hostile_place import ON_PATH, Place
from hostile_stock import CLASSIFIER, POLICY, SAVED, Change, both, edit, edited, of, pickles, written
from hostile_tokenizers import templates_and_tokenizers
from payloads import PAYLOADS


def model_folders() -> Iterator[Folder]:
    yield from reward_models()
    yield from code()
    yield from weights()
    yield from templates_and_tokenizers()
    yield from links()
    yield from sizes()
    yield from adapters()
    yield from shadows()


def weights() -> Iterator[Folder]:
    """Pickles in place of safetensors, and beside them."""

    def only(*names: str) -> Change:
        def change(place: Place, folder: Path) -> None:
            (folder / "model.safetensors").unlink()
            pickles(place, folder, names)

        return change

    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.safetensors", "model.pkl"):
        yield from both("pickled weights", f"{name} alone", only(name))
    beside = ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth", "tokenizer.pkl", "vocab.npz")
    yield from both("pickled weights", "beside sound ones", lambda place, folder: pickles(place, folder, beside))
    for name in ("value_head.bin", "value_head.safetensors", "adapter_model.bin"):
        yield from both(
            "pickled weights", f"{name} beside sound ones", lambda p, folder, name=name: pickles(p, folder, (name,))
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        yield from both("pickled weights", f"{name} is one", lambda p, folder, name=name: pickles(p, folder, (name,)))
    index = {"metadata": {}, "weight_map": {"a": "../outside/x.safetensors", "b": "pytorch_model-1.bin"}}

    def sharded(place: Place, folder: Path) -> None:
        only("pytorch_model-1.bin")(place, folder)
        (folder / "x.safetensors").touch()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    yield from both("pickled weights", "an index that names them", sharded)
    yield Folder(
        "pickled weights",
        "a shared reward model",
        of("reward", only("pytorch_model.bin", "model.pt")),
        (SAVED, ON_PATH[1]),
    )


def links() -> Iterator[Folder]:
    """Links of single files, and what is neither file nor folder."""
    for file in ("chat_template.jinja", "tokenizer.json", "config.json", "model.safetensors"):
        for name in ("a secret", "the environment", "zeros without end"):
            target = OUTWARD[name]

            def change(place: Place, folder: Path, file: str = file, target: str = target) -> None:
                (folder / file).unlink(missing_ok=True)
                (folder / file).symlink_to(target_of(place, folder / file, target))

            yield from both("links in a model", f"{file} is a link to {name}", change)
    for file in ("config.json", "tokenizer.json", "chat_template.jinja", "x.index.json", "model.safetensors", "x.txt"):

        def piped(_: Place, folder: Path, file: str = file) -> None:
            (folder / file).unlink(missing_ok=True)
            os.mkfifo(folder / file)

        yield from both("pipes in a model", file, piped)
        yield Folder("pipes in a model", f"{file}, shared reward model", of("reward", piped), (SAVED, ON_PATH[1]))


def header(**tensors: Any) -> Change:
    """A safetensors file of a header alone."""

    def change(_: Place, folder: Path) -> None:
        text = json.dumps(tensors).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)

    return change


def sizes() -> Iterator[Folder]:
    """Sizes that files declare."""
    for name, value in {
        "vocab_size": 10**12,
        "n_embd": 10**9,
        "n_layer": 10**8,
        "n_positions": 10**13,
        "n_head": 10**9,
        "num_labels": 10**9,
        "n_inner": 10**13,
        "pad_token_id": 10**12,
    }.items():
        yield from both("sizes in a model", f"{name} {value:.0e}", edited("config.json", **{name: value}))
    yield from both(
        "sizes in a model",
        "labels by a million names",
        edited("config.json", id2label={str(i): "x" for i in range(10**6)}),
    )
    yield from both("sizes in a model", "a config of a million levels", written(**{"config.json": '{"a":' * 10**6}))
    tensor = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}
    yield from both("sizes in a model", "a tensor of exabytes", header(**{"transformer.wte.weight": tensor}))
    yield from both(
        "sizes in a model",
        "a header of exabytes",
        lambda _, folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    )

    def sparse(_: Place, folder: Path) -> None:
        with (folder / "model.safetensors").open("ab") as file:
            file.truncate(2**40)

    yield from both("sizes in a model", "a sparse file of a terabyte", sparse)
    for name, text in {"tags": PAYLOADS[0] * 9, "escapes": TERMINAL}.items():
        yield from both(
            "texts for pages and terminals",
            f"{name} in a model's config",
            edited("config.json", architectures=[text], model_type=text),
        )


def adapters() -> Iterator[Folder]:
    """adapter_config.json: the base, and the expressions that choose layers."""
    for name, more in {
        "its base is a secret": {"base_model_name_or_path": "../outside/secret"},
        "its base is a folder elsewhere": {"base_model_name_or_path": "../outside"},
        "its base is itself": {"base_model_name_or_path": "."},
        "its base is on the hub": {"base_model_name_or_path": "evil/base", "revision": "main"},
        "its base is an address": {"base_model_name_or_path": "http://127.0.0.2:9/x"},
        "its base is a command": {"base_model_name_or_path": "$(touch sentinel)"},
        "its base is a device": {"base_model_name_or_path": "/dev/zero"},
        "layers by an expression": {"target_modules": r"(\w*\.*)*(\w*\.*)*!"},
        "excluded layers by an expression": {"exclude_modules": r"(\w*\.*)*(\w*\.*)*!"},
        "ranks by an expression": {"rank_pattern": {r"(\w*\.*)*(\w*\.*)*!": 2}},
        "scales by an expression": {"alpha_pattern": {r"(\w*\.*)*(\w*\.*)*!": 2}},
        "patterns of layers": {"layers_pattern": r"(\w*\.*)*!", "layers_to_transform": [0]},
        "a rank of a billion": {"r": 10**9},
        "a rank of a quadrillion": {"r": 10**15},
        "a module of Megatron": {"megatron_config": {"x": 1}, "megatron_core": "evil"},
        "an auto_mapping": {"auto_mapping": {"base_model_class": "run", "parent_library": "evil"}},
        "weights by code": {"init_lora_weights": "evil.run", "task_type": "os.system"},
        "weights from data": {"init_lora_weights": "eva", "eva_config": {"rho": 1e9}},
        "a type as a path": {"peft_type": "../../evil"},
        "a runtime": {
            "runtime_config": {"ephemeral_gpu_offload": True},
            "lora_bias": True,
            "corda_config": {"cache_file": "../outside/secret"},
        },
        "modules that are saved": {"modules_to_save": ["__class__", "forward", ""]},
        "an escape": {"base_model_name_or_path": TERMINAL},
    }.items():
        yield Folder("an adapter", name, of("adapter", edited("adapter_config.json", **more)), (POLICY, CLASSIFIER))
    yield Folder(
        "an adapter",
        "pickled",
        of(
            "adapter",
            lambda place, folder: (
                (folder / "adapter_model.safetensors").unlink(),
                pickles(place, folder, ("adapter_model.bin",)),
            ),
        ),
        (POLICY, CLASSIFIER),
    )

    def pickled_base(place: Place, folder: Path) -> None:
        (place.home / "base" / "model.safetensors").unlink()
        pickles(place, place.home / "base", ("pytorch_model.bin",))

    yield Folder("an adapter", "its base is pickled", of("adapter", pickled_base), (POLICY, CLASSIFIER))

    def beside(place: Place, folder: Path) -> None:
        (place.home / "base").mkdir()
        edit(
            folder / "adapter_config.json",
            peft_type="LORA",
            base_model_name_or_path=str(place.home / "base"),
            r=2,
            target_modules=["c_attn"],
        )
        pickles(place, folder, ("adapter_model.bin",))
        pickles(place, place.home / "base", ("pytorch_model.bin",))

    yield from both("an adapter", "beside a whole model, with a pickle", beside)
