"""The errors a user can meet. Each message is one line: what was given, what is allowed, what to do next."""


class ConceptlabError(Exception):
    """Base of every error that conceptlab raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(ConceptlabError):
    """The input or the command is wrong; nothing was started and nothing is lost."""

    exit_code = 2


class ModelError(InputError):
    """The folder or id is not a model that can be loaded safely, or the model cannot run this input."""


class DataError(InputError):
    """A labelled file cannot be read as asked: the message names the file and the row or column."""


class SiteError(InputError):
    """A site, layer, head, neuron or position that this model does not have; the message says why."""


class ResultError(InputError):
    """A saved result is not there, is damaged, or was written by a newer version."""


class RunError(ConceptlabError):
    """The run failed although the input was right (a full disk, a lost device); it can be resumed."""
