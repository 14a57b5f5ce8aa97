"""What SEMANTICS.md says becomes of an upload, as a model to hold a mount against."""

import errno
import hashlib
from dataclasses import dataclass, field

EMPTY = hashlib.sha256().hexdigest()


def sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()


def declared_by(name: str) -> str | None:
    return name.removeprefix("sha256:") if name.startswith("sha256:") else None


@dataclass(eq=False)
class Upload:
    """A file of ``_uploads``; *is_kept* says that it outlives the mount."""

    name: str
    content: bytearray = field(default_factory=bytearray)
    digest: str | None = None
    size: int | None = None
    is_committed: bool = False
    has_failed: bool = False
    is_kept: bool = False
    is_rewritten: bool = False  # then what it hashes to need not be known before the last close
    opening: "Opening | None" = None

    @property
    def is_acceptable(self) -> bool:
        """Whether it is what was declared."""
        if self.size not in (None, len(self.content)):
            return False
        return self.digest in (None, sha256(self.content))

    @property
    def may_match(self) -> bool:
        return self.digest is not None and self.is_acceptable

    @property
    def matches(self) -> bool:
        """Whether it is known before the last close to be what was declared."""
        return self.may_match and not self.is_rewritten

    def begin_again(self) -> None:
        """O_TRUNC, which on a receipt begins a new upload."""
        if self.is_committed:
            self.is_committed = self.is_kept = False
            self.digest, self.size = declared_by(self.name), None
        self.cut(0)

    def cut(self, size: int) -> None:
        self.is_rewritten = size > 0 and (self.is_rewritten or size < len(self.content))
        del self.content[size:]
        self.content += bytes(size - len(self.content))

    def put(self, offset: int, data: bytes) -> None:
        self.is_rewritten = self.is_rewritten or offset < len(self.content)
        if offset > len(self.content):
            self.content += bytes(offset - len(self.content))
        self.content[offset : offset + len(data)] = data

    def commit(self) -> int:
        """What a close answers that commits it, whatever it is."""
        if not self.is_acceptable:
            self.has_failed = self.is_kept = True
            return errno.EBADMSG
        self.is_committed = True
        self.has_failed = False
        self.digest, self.size = sha256(self.content), len(self.content)
        return 0

    def leave(self) -> None:
        """Nobody has it open any more."""
        if self.is_committed:
            return
        if self.matches:
            self.commit()
        elif self.content:
            self.is_kept = True


@dataclass(eq=False)
class Opening:
    """One opening of an upload, which several descriptors may share."""

    upload: Upload
    appends: bool
    is_gone: bool = False  # the upload was removed meanwhile
    has_written: bool = False
    is_refused: bool = False
    is_killed: bool = False

    @property
    def refusal(self) -> int:
        """What a write answers."""
        if self.upload.is_committed:
            return errno.EROFS
        return errno.ENOENT if self.is_gone else 0

    def write(self, offset: int, data: bytes) -> int:
        if not self.refusal:
            self.upload.put(len(self.upload.content) if self.appends else offset, data)
            self.has_written, self.is_refused = True, False
        return self.refusal

    def truncate(self, size: int) -> int:
        if not self.refusal and size != len(self.upload.content):
            self.upload.cut(size)
            self.has_written, self.is_refused = size > 0, False
        return self.refusal

    def sync(self) -> int:
        upload = self.upload
        if self.is_gone or upload.is_committed:
            return 0
        if upload.matches:
            return upload.commit()
        upload.is_kept = upload.is_kept or bool(upload.content)
        return 0

    def flush(self, *, held: bool, killed: bool = False) -> int:
        upload = self.upload
        if self.is_gone or upload.is_committed:
            return 0
        if upload.matches:
            return upload.commit()
        if not self.has_written:
            return 0
        if killed:
            self.is_killed = upload.has_failed = True
        if held or self.is_killed:
            upload.is_kept = True
            return 0
        answer = upload.commit() if upload.content or upload.digest else 0
        self.is_refused = bool(answer)
        return answer

    def release(self) -> None:
        self.upload.opening = None
        if self.is_gone or self.upload.is_committed:
            return
        if self.has_written and not self.is_refused and not self.is_killed and self.upload.content:
            self.upload.commit()
        else:
            self.upload.leave()
