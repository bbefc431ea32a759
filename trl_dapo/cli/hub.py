"""
Checks that a model or a dataset exists, before anything is loaded.

The Hub gets one request with a short timeout. If it does not answer, the run goes on offline: cached files work, and
missing ones fail at once instead of after minutes of retries.
"""

import os
from pathlib import Path

import datasets.config
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from trl_dapo.host.checkpoints import model_damage
from trl_dapo.problems.files import FILE_ENDINGS, kind, loader
from trl_dapo.problems.sources import did_you_mean

from .errors import UsageError


TIMEOUT = 10.0
MODEL_FILES = ("config.json", "adapter_config.json")


def check_model(field: str, name: str, revision: str, needed: bool = True) -> str | None:
    """
    Raises [`UsageError`] unless `name` is a folder with a model, or a repository on the Hub or in its cache.

    Where it is not `needed` on this machine, as in a dry run, a model of the Hub that cannot be looked up is a remark,
    which is returned.
    """
    if Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in MODEL_FILES):
            raise UsageError(f"{field}={name}: the folder has no {' or '.join(MODEL_FILES)}. Give a saved model.")
        if found := model_damage(Path(name)):
            raise UsageError(f"{field}={name}: {found}. Save or download the model again.")
        return None
    if _is_path(name):
        raise UsageError(f"{field}={name}: there is no such folder. Give the folder of a saved model, or a Hub id.")
    if not _is_on_hub(f"{field}={name}", name, "model", revision):
        go_offline()
        cached = [huggingface_hub.try_to_load_from_cache(name, file, revision=revision) for file in MODEL_FILES]
        if not any(isinstance(path, str) for path in cached):
            if not needed:
                return f"{field}={name} was not checked: it is not in the Hub's cache, and the Hub cannot be reached"
            raise UsageError(
                f"{field}={name}: there is no such folder, it is not in the Hub's cache, and the Hub cannot be "
                "reached. Give the folder of a saved model, or connect to the network."
            )
    return None


def check_dataset_name(name: str) -> None:
    """Raises [`UsageError`] unless `name` is a file of rows, a folder, or can be a dataset on the Hub."""
    if Path(name).is_file() and loader(Path(name)) is None:
        raise UsageError(
            f"dataset_name={name} is no file of rows: its name ends in none of {', '.join(FILE_ENDINGS)}."
        )
    if Path(name).exists():
        return
    hint = did_you_mean(name)
    if kind(Path(name)):
        raise UsageError(f"dataset_name={name}: there is no such file. Give a file or folder of data, or a Hub id.")
    if _is_path(name):
        raise UsageError(
            f"dataset_name={name}: there is no such folder. Give a folder of data files, or a Hub id.{hint}"
        )
    check_dataset(f"dataset_name={name}", name, hint)


def check_dataset(named: str, hub_id: str, hint: str = "") -> None:
    """Raises [`UsageError`], which begins with `named`, if the Hub has no such dataset; offline if it cannot say."""
    if not _is_on_hub(named, hub_id, "dataset", None, hint):
        if hint:
            raise UsageError(f"{named}: no data set here has this name, and the Hub cannot be reached.{hint}")
        go_offline()


def go_offline() -> None:
    """Makes this process and its children use only the Hub's cache."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Both libraries read the variable on import, which has already happened
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def _is_path(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return name.startswith(("~", "."))


def _is_on_hub(named: str, name: str, what: str, revision: str | None, hint: str = "") -> bool:
    """Returns `True` if the Hub has the repository, `False` if the Hub does not answer; raises if it has none."""
    try:
        huggingface_hub.HfApi().repo_info(name, repo_type=what, revision=revision, timeout=TIMEOUT)
    except RevisionNotFoundError as error:
        raise UsageError(f"{named}: the Hub has no revision {revision!r} of it.") from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"{named}: the Hub has no such {what}, or you may not see it. Check the spelling, or run "
            f"`hf auth login`.{hint}"
        ) from error
    except (OSError, HfHubHTTPError):
        return False
    except Exception as error:
        # The Hub's client changed its HTTP library between releases, and with it the class of a failed connection
        if "httpx" in type(error).__module__:
            return False
        raise
    return True
