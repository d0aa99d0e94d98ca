"""A configuration file as nested dictionaries, in which no key stands twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one place; YAML's usual readers keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here, before `<<` is resolved: what is merged in may be given again.
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"{key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def read_source(path: Path | str) -> Any:
    """What a YAML file says.

    Raises:
        OSError, ValueError, RecursionError, yaml.YAMLError: it cannot be read; PyYAML lets through
            what Python says of impossible dates, long numbers and deep nesting.
    """
    with Path(path).open() as file:
        return yaml.load(file, _Loader)
