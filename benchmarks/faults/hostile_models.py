"""The hostile folders of hostile.py that hold a model: policies, classifiers, shared reward models, adapters."""

# ruff: noqa: ARG001, E731 - every builder takes the same arguments

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - to write what must never be read
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hostile_folders import OUTWARD, SECRET, SMALL, TERMINAL, Folder, finished, target_of
from payloads import PAYLOADS
from small import settings
from test_hostile_folders import NAMES, ON_PATH, Place, shared_reward_model

CONTEXT = 2048
"""Tokens of the stock's models: the prompts of the synthetic tasks must fit."""
POLICY = f"run --task dialogsum --rm length-only --policy shared --out new {SMALL}"
CLASSIFIER = f"run --task dialogsum --rm hf:shared --out new --dry-run {shlex.join(settings(()))}"
JUDGED = "judge runs --judge winrate-rm --set winrate-rm.model=shared"
SAVED = f"run --task dialogsum --rm path:shared --out new --dry-run {shlex.join(settings(()))}"

Change = Callable[[Place, Path], object]
"""Makes a sound folder (the second) hostile."""


class Payload:
    """Unpickled it runs a command of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def pickles(place: Place, folder: Path, names: Sequence[str]) -> None:
    """Write a pickle that leaves a canary to each of these files, in the forms of torch, NumPy and Python."""
    import numpy as np
    import torch

    payload = Payload(f"touch {shlex.quote(str(place.home / 'sentinel'))}")
    for name in names:
        if name.endswith((".npz", ".npy")):
            array = np.array([payload], dtype=object)
            np.savez(folder / name, x=array) if name.endswith(".npz") else np.save(folder / name, array)
        elif name.endswith((".pkl", ".arrow", ".parquet", ".jsonl", ".gz", ".json")):
            (folder / name).write_bytes(pickle.dumps(payload))
        else:
            torch.save({"weight": payload, "state": {}}, folder / name)


def stock_models(folder: Path) -> None:
    """Sound models: `policy`, `classifier` (with a chat template), `adapter` (of `base`) and `reward` (of the run)."""
    import foreign
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny import make_tokenizer, save

    from rlhf_bench.harness.models.tiny_policy import tiny_model

    foreign.CONTEXT = CONTEXT
    tokenizer = make_tokenizer()
    for name in ("policy", "base"):
        save(tiny_model(tokenizer, CONTEXT, layers=1, width=16, heads=2, seed=0), tokenizer, folder / name)
    foreign.classifier("gpt2", folder / "classifier", chat=True)
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(tiny_model(tokenizer, CONTEXT, layers=1, width=16, heads=2, seed=0), config)
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    (found,) = (folder / "runs" / "reward").iterdir()
    shutil.copytree(found, folder / "reward")


def of(sound: str, change: Change) -> Callable[[Place, Path], None]:
    """A sound folder of the stock at `shared`, made hostile, beside a finished run."""

    def build(place: Place, stock: Path) -> None:
        finished(lambda _: None)(place, stock)
        shutil.copytree(stock / sound, place.home / "shared")
        if sound == "adapter":
            shutil.copytree(stock / "base", place.home / "base")
            edit(place.home / "shared" / "adapter_config.json", base_model_name_or_path="../base")
        change(place, place.home / "shared")

    return build


def edit(file: Path, **more: Any) -> None:
    """Set values of a JSON object in a file."""
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, **more}))


def edited(file: str, **more: Any) -> Change:
    return lambda _, folder: edit(folder / file, **more)


def written(**content: str) -> Change:
    """Files by name with their text."""

    def change(_: Place, folder: Path) -> None:
        for name, text in content.items():
            (folder / name).write_text(text)

    return change


def both(kind: str, name: str, change: Change) -> Iterator[Folder]:
    """The attack in a policy, and in a classifier that is a reward model and a judge."""
    yield Folder(kind, f"{name}, policy", of("policy", change), (POLICY,))
    yield Folder(kind, f"{name}, classifier", of("classifier", change), (CLASSIFIER, JUDGED))


def model_folders() -> Iterator[Folder]:
    yield from reward_models()
    yield from code()
    yield from weights()
    yield from templates_and_tokenizers()
    yield from links()
    yield from sizes()
    yield from adapters()
    yield from shadows()


def reward_models() -> Iterator[Folder]:
    """`--rm path:FOLDER`: the record names an arm and its settings."""
    named: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES]
    named += [
        ("function", {"source": "os:system"}),
        ("function", {"source": "evil:run"}),
        ("path", {"source": "shared"}),
        ("hf", {"source": "outside"}),
        ("scalar", {"spread": "evil:run"}),
        ("scalar", {"lr": 10**400}),
        ("scalar", {"epochs": "$(id)"}),
        ("scalar", {"model": "evil/model"}),
        ("subprocess:run", {"args": ["id"]}),
        ("../evil", {}),
        ("\x1b[31mred", {}),
    ]
    for name, given in named:
        build = lambda place, _, name=name, given=given: shared_reward_model(place, name, **given)
        # a rate is of training, which is over: the folder is data like any other, and a whole run would begin
        lines = (SAVED, ON_PATH[1]) if "lr" in given else ON_PATH
        yield Folder("a name in reward_model.json", f"{name!a} {ascii(given)[:60]}", build, lines)
    for file in ("reward_model.json", "config.json", "tokenizer_config.json"):
        for text in ("[" * 10**6, "9" * 10**5, "\0" * 10**4, json.dumps({"name": ["scalar"], "settings": 3})):
            name = f"{file} is {text[:12]!a}"
            yield Folder(
                "a name in reward_model.json", name, of("reward", written(**{file: text})), (SAVED, ON_PATH[1])
            )


MODELING = "import evil\nevil.run()\nclass Evil:\n    from_pretrained = evil.run\nConfig = Model = Tokenizer = Evil\n"


def code() -> Iterator[Folder]:
    """config.json and tokenizer_config.json that name classes of the folder, of the hub and of Python."""
    auto = {
        "AutoConfig": "modeling.Config",
        "AutoModel": "modeling.Model",
        "AutoModelForCausalLM": "modeling.Model",
        "AutoModelForSequenceClassification": "modeling.Model",
        "AutoTokenizer": ["modeling.Tokenizer", "modeling.Tokenizer"],
    }
    hub = {name: f"evil/repo--{value}" for name, value in auto.items() if isinstance(value, str)}
    for name, more in {
        "auto_map of the folder": {"auto_map": auto, "trust_remote_code": True},
        "auto_map of the folder, unknown type": {"auto_map": auto, "model_type": "evil", "trust_remote_code": True},
        "auto_map of the hub": {"auto_map": hub, "model_type": "evil"},
        "a kernel of the hub": {"attn_implementation": "evil/kernel:run"},
        "a class of Python": {"architectures": ["os.system"], "model_type": "os"},
        "a type with a path": {"model_type": "../../outside/evil"},
        "weights elsewhere": {"transformers_weights": "../outside/evil.safetensors"},
        "a name elsewhere": {"_name_or_path": "../outside", "name_or_path": "evil/model"},
        "dtype as a name": {"dtype": "load", "torch_dtype": "load"},
        "quantisation by a stranger": {
            "quantization_config": {"quant_method": "evil", "modules_to_not_convert": ["(x+)+y"]}
        },
        "a base of the pipeline": {"custom_pipelines": {"x": {"impl": "modeling.Model", "pt": ["AutoModel"]}}},
        "an activation as a name": {"activation_function": "os.system"},
        "a plan of parallel layers": {"base_model_tp_plan": {"(x+)+y": "evil"}, "use_kernels": True},
    }.items():
        change = lambda place, folder, more=more: (
            written(**{"modeling.py": MODELING})(place, folder),
            edit(folder / "config.json", **more),
        )
        yield from both("code that a model names", name, change)
    for name, more in {
        "auto_map": {
            "auto_map": {"AutoTokenizer": ["modeling.Tokenizer", "modeling.Tokenizer"]},
            "tokenizer_class": "Evil",
        },
        "a class of Python": {"tokenizer_class": "os.system"},
        "a class of another kind": {"tokenizer_class": "AutoModelForCausalLM"},
        "files elsewhere": {
            "tokenizer_file": "../outside/secret",
            "vocab_file": "/etc/passwd",
            "name_or_path": "../outside",
        },
        "a processor": {"processor_class": "modeling.Model", "fix_mistral_regex": True},
        "special tokens that are objects": {
            "eos_token": {"__type": "evil.run", "content": "<|end|>"},
            "extra_special_tokens": {"__class__": "evil"},
        },
        "text in place of a number": {"model_max_length": "__import__('os').system('id')"},
    }.items():
        change = lambda place, folder, more=more: (
            written(**{"modeling.py": MODELING})(place, folder),
            edit(folder / "tokenizer_config.json", **more),
        )
        yield from both("code that a tokenizer names", name, change)
    generation = {
        "custom_generate": "modeling.py",
        "cache_implementation": "evil",
        "auto_map": auto,
        "eos_token_id": list(range(10**5)),
    }
    yield from both("code that a model names", "generation_config.json", edited("generation_config.json", **generation))


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


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "a loop": LOOP,
    "a loop on long prompts": "{% if messages[0]['content']|length > 2000 %}" + LOOP + "{% endif %}",
    "a recursive macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a text of ten gigabytes": "{{ 'a' * 10000000000 }}",
    "a text of ten megabytes": "{{ 'a' * 10000000 }}",
    "a width of a billion": "{{ '%1000000000d' % 1 }}",
    "a power tower": "{{ 9 ** 9 ** 9 ** 9 }}",
    "classes of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('touch sentinel') }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.system('touch sentinel') }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('touch sentinel').read() }}",
    "a format string": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "include": "{% include '../outside/secret' %}",
    "import": "{% import '/proc/self/environ' as x %}{{ x }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('../outside/secret').read() }}",
    "the environment": "{{ namespace.__init__.__globals__ }}",
    "changing messages": "{% set _ = messages.append({'role': 'user', 'content': 'x'}) %}{{ messages }}",
    "escapes": TERMINAL,
    "no template": "{% for",
    "nesting": "{% if 1 %}" * 500 + "{% endif %}" * 500,
}
EXPRESSIONS = {
    "nested repetition": "(a+)+$",
    "alternatives": "(a|aa)+b",
    "classes": r"(\w+\s?)+\x00",
    "a lookbehind": r"(?<=(a+)+)b",
    "a repetition of a billion": "(a{1,60000}){1,60000}",
    "a reference": r"(a*)*\1b",
    "a million alternatives": "|".join(f"a{i}" for i in range(10**5)),
    "no expression": "(((",
}


def pattern(expression: str, where: str) -> Change:
    """An expression in one part of a tokenizer's pipeline."""
    made = {"Regex": expression}
    parts = {
        "pre_tokenizer": {"type": "Split", "pattern": made, "behavior": "Isolated", "invert": False},
        "normalizer": {"type": "Replace", "pattern": made, "content": "x"},
        "decoder": {"type": "Replace", "pattern": made, "content": "x"},
    }

    def change(_: Place, folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        own = found.get(where)
        inner = {"pre_tokenizer": "pretokenizers", "normalizer": "normalizers", "decoder": "decoders"}[where]
        found[where] = {"type": "Sequence", inner: [parts[where], *([own] if own else [])]}
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return change


def templates_and_tokenizers() -> Iterator[Folder]:
    for name, text in TEMPLATES.items():
        yield from both("a chat template", name, edited("tokenizer_config.json", chat_template=text))
    yield from both(
        "a chat template",
        "several, one a loop",
        edited(
            "tokenizer_config.json",
            chat_template=[{"name": "default", "template": "{{ 1 }}"}, {"name": "rag", "template": LOOP}],
        ),
    )
    yield from both("a chat template", "a file of its own", written(**{"chat_template.jinja": LOOP}))
    for name, expression in EXPRESSIONS.items():
        yield from both("an expression in a tokenizer", name, pattern(expression, "pre_tokenizer"))
    for where in ("normalizer", "decoder"):
        yield from both("an expression in a tokenizer", f"in the {where}", pattern("(a+)+$", where))
    added = {
        "id": 10**12,
        "content": "x" * 10**6,
        "special": True,
        "single_word": False,
        "lstrip": True,
        "rstrip": True,
        "normalized": False,
    }
    for name, more in {
        "an id of a trillion": {"added_tokens": [added]},
        "a vocabulary of negative ids": {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        "a prefix of a megabyte": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
        "truncation to nothing": {
            "truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**6}
        },
        "padding to a billion": {
            "padding": {
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
    }.items():
        yield from both("sizes in a tokenizer", name, edited("tokenizer.json", **more))


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


def shadows() -> Iterator[Folder]:
    """Modules of the folder under names that this program, its libraries or Python import, in the current folder."""
    line = POLICY.replace("--policy shared", "--policy .")
    names = (
        "json",
        "resource",
        "hashlib",
        "tokenizers",
        "jinja2",
        "rlhf_bench",
        "torch",
        "transformers",
        "sitecustomize",
        "peft",
        "pyarrow",
        "subprocess",
    )

    def modules(place: Place, folder: Path) -> None:
        for name in names:
            (folder / f"{name}.py").write_text("import pathlib\npathlib.Path('sentinel').touch()\n")
        edit(folder / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")

    yield Folder(
        "names that shadow", "modules in the current folder", of("policy", modules), (line,), "shared", fresh=True
    )

    def registered(place: Place, folder: Path) -> None:
        modules_of = folder / "evil-1.0.dist-info"
        modules_of.mkdir()
        (modules_of / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        groups = {
            "rlhf_bench.tasks": "dialogsum",
            "rlhf_bench.reward_models": "length-only",
            "rlhf_bench.judges": "winrate",
        }
        (modules_of / "entry_points.txt").write_text(
            "".join(f"[{group}]\n{name} = evil:run\nevil = evil:run\n" for group, name in groups.items())
        )
        (folder / "evil.py").write_text("import pathlib\npathlib.Path('sentinel').touch()\n")

    lines = (line, "list reward-models", "doctor", "judge ../runs --judge length")
    yield Folder(
        "names that shadow",
        "an installed package in the current folder",
        of("policy", registered),
        lines,
        "shared",
        fresh=True,
    )

    def configured(place: Place, folder: Path) -> None:
        for name in (
            "pyproject.toml",
            "setup.cfg",
            ".env",
            "bench.toml",
            "presets.toml",
            ".git/config",
            ".netrc",
            "pytest.ini",
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("[core]\n\tfsmonitor = touch sentinel\n[rlhf_bench]\nplugins = evil:run\n")
        (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")

    yield Folder(
        "names that shadow",
        "configurations in the current folder",
        of("policy", configured),
        lines,
        "shared",
        fresh=True,
    )


assert SECRET
