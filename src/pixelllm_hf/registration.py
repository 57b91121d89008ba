"""Make transformers' Auto classes know ours, without importing them (or torch) before anybody asks for them.

Every line of the table below names a module of transformers, or of peft, and what is registered there. A registration
is made at the moment its module has been imported: at once if that has happened already, else by a finder that waits
for it. So `import pixelllm_hf` stays cheap, and nobody can reach an Auto class that does not know ours.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .families import FAMILIES, PIPELINE, load, modules_of

_CONFIGURATIONS = modules_of(family.config for family in FAMILIES.values())
_MODELS = modules_of(family.model for family in FAMILIES.values())
_PROCESSORS = modules_of(family.processor for family in FAMILIES.values())
_IMAGE_PROCESSORS = modules_of(family.image_processor for family in FAMILIES.values())
_AUTO = "transformers.models.auto."


@dataclass(frozen=True)
class Registration:
    """`register(auto_module, *ours)` runs once, as soon as `auto_module` and `ours` are imported."""

    auto_module: str
    ours: tuple[str, ...]
    register: Callable[..., None]


def _register_configs(auto: Any, *configurations: Any) -> None:
    from transformers import PreTrainedConfig

    # With those of their parts, which have files of their own beside them and are imported by them.
    rooms = tuple(f"{configuration.__name__.rpartition('.')[0]}.configuration_" for configuration in configurations)
    files = {name: module for name, module in sorted(sys.modules.items()) if name.startswith(rooms)}
    things = [thing for name, file in files.items() for thing in vars(file).values() if _is_own(thing, name)]
    for config_class in (thing for thing in things if issubclass(thing, PreTrainedConfig)):
        if kind := getattr(config_class, "model_type", ""):
            auto.AutoConfig.register(kind, config_class, exist_ok=True)


def _is_own(thing: Any, module: str) -> bool:
    """Whether it is a class that the module has not imported from elsewhere."""
    return isinstance(thing, type) and thing.__module__ == module


def _register_models(auto: Any, *_: Any) -> None:
    for family in FAMILIES.values():
        config, model = family.config_class, family.model_class
        auto.AutoModel.register(config, model, exist_ok=True)
        auto.AutoModelForImageTextToText.register(config, model, exist_ok=True)
        # The pipeline of that name looks here, and else says at every start that it does not support the model.
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault(config.model_type, model.__name__)


def _register_image_processors(auto: Any, *_: Any) -> None:
    for family in FAMILIES.values():
        auto.AutoImageProcessor.register(
            family.config_class, image_processor_classes={"pil": family.image_processor_class}, exist_ok=True
        )


def _register_processors(auto: Any, *_: Any) -> None:
    for family in FAMILIES.values():
        auto.AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)


def _register_pipeline(pipelines: Any, pipeline: Any) -> None:
    from . import default_checkpoint

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        pipeline.PIPELINE_TASK,
        pipeline_class=load(PIPELINE),
        pt_model=pipelines.AutoModel,
        default={"model": (str(default_checkpoint()), "main")},  # used if no model is named
        type="multimodal",
    )


def _register_adapter_targets(constants: Any, *_: Any) -> None:
    """What peft adapts of our models where `target_modules` says nothing: by LoRA, by AdaLoRA, and by every method that
    adapts of T5 what LoRA does."""
    of_lora = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    alike = [constants.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING]
    for name, known in vars(constants).items():
        if name.endswith("_TARGET_MODULES_MAPPING") and known.get("t5") == of_lora["t5"]:
            alike.append(known)
    for family in FAMILIES.values():
        for known in alike:
            known.setdefault(family.config_class.model_type, family.model_class.default_lora_pattern())


REGISTRATIONS = (
    Registration(_AUTO + "configuration_auto", _CONFIGURATIONS, _register_configs),
    Registration(_AUTO + "modeling_auto", (*_CONFIGURATIONS, *_MODELS), _register_models),
    Registration(_AUTO + "image_processing_auto", (*_CONFIGURATIONS, *_IMAGE_PROCESSORS), _register_image_processors),
    Registration(_AUTO + "processing_auto", (*_CONFIGURATIONS, *_PROCESSORS), _register_processors),
    Registration("transformers.pipelines", modules_of([PIPELINE]), _register_pipeline),
    Registration("peft.utils.constants", (*_CONFIGURATIONS, *_MODELS), _register_adapter_targets),
)


class RegistrationFinder:
    """A `sys.meta_path` entry that finds nothing itself; it notices when one of the modules has been imported.

    It also notices when a module of ours could not be, for want of a package that an extra brings, and says so.
    """

    def __init__(self, registrations: Sequence[Registration]):
        self._pending = list(registrations)
        self._watched = {name for r in registrations for name in (r.auto_module, *r.ours)}
        self._finished: set[str] = set()
        self._running = 0  # imports of ours, of transformers or peft that have begun and not ended

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(("pixelllm_hf.", "transformers.", "peft.")):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._notice_end_of(spec)
                return spec
        return None

    def _notice_end_of(self, spec: ModuleSpec) -> None:
        execute = spec.loader.exec_module  # type: ignore[union-attr]

        def execute_and_register(module: ModuleType) -> None:
            self._running += 1
            try:
                execute(module)
            except ModuleNotFoundError as error:
                if module.__name__.startswith("pixelllm_hf."):
                    from .extras import explain

                    explain(error, module.__name__)
                raise
            finally:
                self._running -= 1
            if module.__name__ in self._watched:
                self._finished.add(module.__name__)
            # Only when no other import is under way: ours need whole modules, not half-imported ones.
            if not self._running:
                self.register_what_is_ready()

        # the loader keeps its type, on which inspect, pickling tools and debuggers depend
        spec.loader.exec_module = execute_and_register  # type: ignore[union-attr, method-assign]

    def adopt_imported(self) -> None:
        """Count what was imported before this finder existed."""
        self._finished |= {name for name in self._watched if name in sys.modules}
        self.register_what_is_ready()

    def register_what_is_ready(self) -> None:
        """Registrations whose Auto module is there; ours are imported for it."""
        for registration in list(self._pending):
            half_imported = any(n in sys.modules and n not in self._finished for n in registration.ours)
            # a module of ours that is just importing the Auto module: its own end brings us back here
            if registration.auto_module not in self._finished or half_imported or registration not in self._pending:
                continue
            self._pending.remove(registration)  # before the imports, which come back here
            try:
                ours = [importlib.import_module(name) for name in registration.ours]
                registration.register(sys.modules[registration.auto_module], *ours)
            except BaseException:
                self._pending.append(registration)  # whoever repairs the cause and imports again gets it
                raise


def install() -> RegistrationFinder:
    """Start watching; once per process."""
    for finder in sys.meta_path:
        if isinstance(finder, RegistrationFinder):
            return finder
    finder = RegistrationFinder(REGISTRATIONS)
    sys.meta_path.insert(0, finder)
    finder.adopt_imported()
    return finder
