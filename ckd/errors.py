"""The errors a user can act on, and their exit codes. Bugs stay ordinary exceptions (exit 1)."""


class CkdError(Exception):
    """One line: what is wrong, where (file:line), what was expected, what to do next. Never patient text."""

    exit_code = 2


class ConfigError(CkdError):
    """The configuration or the command line is wrong."""


class DataError(CkdError):
    """The input data cannot be used as it is."""


class ArtifactError(CkdError):
    """A stored artifact is damaged, or belongs to another configuration."""


class MismatchError(ArtifactError):
    """A stored artifact is whole but was made with another value of a field, which the message names."""


class IncompleteError(CkdError):
    """Some shards failed; the finished ones are kept and the same command continues."""

    exit_code = 3


class TakenError(IncompleteError):
    """Another command writes there now; the message names it."""


class UnreachableError(CkdError):
    """Storage or cluster does not answer or refuses this machine. Nothing is lost; the same command continues."""

    exit_code = 3


class ModelUnreachableError(UnreachableError):
    """The model hub does not answer: what is stored can be read all the same."""
