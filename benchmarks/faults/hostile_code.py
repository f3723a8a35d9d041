"""Hostile models that name code, for hostile.py: in records and configurations, and by names that shadow modules."""

# ruff: noqa: ARG001, E731 - every builder takes the same arguments

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_folders import Folder
from hostile_place import NAMES, ON_PATH, Place, shared_reward_model
from hostile_stock import POLICY, SAVED, both, edit, edited, of, written


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
