"""A tiny harvest for other processes: its model lies in a folder."""

from pathlib import Path

from conceptlab.model import load_model
from conceptlab.runs.job import Job
from conceptlab.runs.place import place_of
from conceptlab.store import Harvest, open_harvest
from conceptlab.store.harvesting import job_of
from tests.model.tiny import tokenizer
from tests.reliability.small import WISH, corpus, fresh_module, hashes


def model_folder(folder: Path) -> Path:
    """The small model and its tokenizer as files."""
    fresh_module().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def opened(store: Path, folder: Path) -> Harvest:
    """The plan of a harvest by the model in `folder`."""
    return open_harvest(load_model(folder), corpus(), store, WISH)


def job(store: Path, folder: Path) -> Job:
    """The same as a job."""
    return job_of(opened(store, folder), str(folder), {})


def files(store: Path) -> dict[str, str]:
    return hashes(place_of(store))
