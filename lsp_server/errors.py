"""What can go wrong while serving; imports nothing.

ServingError
├── ModelNotFoundError   a name or path that stands for no model here
├── ModelLoadError       an exported folder that the engine cannot run
│   └── DeviceError      the device that was asked for cannot be used
├── ModelHangsError      a model that does not end what it was told to end
├── PromptError          token ids that the engine cannot take
└── DocumentError        a file or position that cannot be completed
"""


class ServingError(Exception):
    """Base of all errors of this package; the message is one line for a person."""


class ModelNotFoundError(ServingError):
    """A model that was named is not on this machine."""


class ModelLoadError(ServingError):
    """An exported folder cannot be run here."""


class DeviceError(ModelLoadError):
    """The device that was asked for cannot be used; another may do."""


class ModelHangsError(ServingError):
    """A model does not end what it was told to end."""


class PromptError(ServingError):
    """Token ids that are out of range, or too many for the model's context."""


class DocumentError(ServingError):
    """A file that is no text, or a position outside it."""
