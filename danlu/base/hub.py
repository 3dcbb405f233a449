"""Models from a hub by name, `hf:owner/name[@revision]`, through huggingface_hub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from danlu.base.errors import ConfigError

PREFIX = "hf:"
REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w.-]*)(?:@([\w.][\w./-]*))?")
# Nothing that is unpickled and nothing that is code: a repository's own .bin, .pt and .py files stay where they are.
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*")
MEND = "check the network, set HF_ENDPOINT to a mirror, or give a local folder instead"


def is_hub_name(name: str) -> bool:
    """Whether a name points at the hub."""
    return name.startswith(PREFIX)


def hub_path(name: str) -> Path:
    """The folder with the repository's weights, tokenizer and configuration, fetched into the hub's own cache if missing.

    Raises: ConfigError if the name is malformed or unknown, or nothing is cached and the hub cannot be reached.
    """
    match = REPOSITORY.fullmatch(name.removeprefix(PREFIX))
    if not match:
        raise ConfigError(f"{name!r} is not a hub name: expected hf:owner/name or hf:owner/name@revision")
    return snapshot(match[1], match[2])


def snapshot(repository: str, revision: str | None = None) -> Path:
    """One revision of a repository, whole; without a network what the hub's cache has."""
    import huggingface_hub.errors  # late: few models come from a hub, and it takes a tenth of a second and megabytes

    name = f"{PREFIX}{repository}" + (f"@{revision}" if revision else "")
    wanted = list(WANTED)
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except huggingface_hub.errors.GatedRepoError:
        raise ConfigError(f"{name} asks for consent: accept its terms on the hub, then set HF_TOKEN") from None
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise ConfigError(f"the hub knows no repository {name}, or it is private: check the spelling, or set HF_TOKEN") from None
    except huggingface_hub.errors.RevisionNotFoundError:
        raise ConfigError(f"{repository} has no revision {revision!r}: leave it out, or name a branch, tag or commit") from None
    except huggingface_hub.errors.LocalEntryNotFoundError:
        raise ConfigError(f"{name} is not in the cache and the hub cannot be reached: {MEND}") from None
    except (OSError, huggingface_hub.errors.HTTPError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ConfigError(f"{name} cannot be fetched ({type(error).__name__}): {MEND}") from error
    if not any(folder.glob("*.safetensors")):
        print(f"{name}: no safetensors in it; weights in other formats are not fetched, since reading them can run code", file=sys.stderr)
    return folder


def is_snapshot_cached(repository: str, revision: str) -> bool:
    """Whether that revision can be used without a network."""
    import huggingface_hub.errors

    try:
        huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED), local_files_only=True)
    except (huggingface_hub.errors.LocalEntryNotFoundError, OSError):
        return False
    return True
