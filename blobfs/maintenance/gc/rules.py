"""The links of a repository that nothing needs: pure functions of what was read of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blobfs.inventory.rows import LinkKind
from blobfs.inventory.scanning import ReferenceKind

Reference = tuple[int, bytes]
"""A ``ReferenceKind`` and a digest."""

DOWN: Final = frozenset({ReferenceKind.CHILD, ReferenceKind.NAMED})
"""References by which a manifest keeps other manifests."""


class Link(NamedTuple):
    """A link file that could be read. *digest* is that of its path, and None for a current link.

    Digests are packed. *tag* is ``""`` if the link belongs to none.
    """

    kind: int
    tag: str
    digest: bytes | None
    target: bytes
    mtime: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Options of a collection. Only what was last changed before *before_ns* is dead.

    A blob is deleted *grace_s* seconds after it was found without a link, or later.
    """

    before_ns: int
    layers: bool = False
    untagged: bool = False
    grace_s: float = 3600.0

    @property
    def need_manifests(self) -> bool:
        """True if the references in manifests decide what is dead."""
        return self.layers or self.untagged


@dataclass(slots=True)
class RepositoryView:
    """The links of a repository, the references in its manifests, and the problems met.

    A view with problems has no dead links, because something that was not read may need them.
    """

    name: str
    links: list[Link] = field(default_factory=list)
    references: Mapping[bytes, Sequence[Reference]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of_kind(self, *kinds: LinkKind) -> Iterator[Link]:
        """Yield the links of *kinds*."""
        return (link for link in self.links if link.kind in kinds)

    def roots(self) -> set[bytes]:
        """Return the targets of all revisions and tags: the manifests whose references count."""
        return {link.target for link in self.of_kind(LinkKind.REVISION, LinkKind.CURRENT)}


class DeadLink(NamedTuple):
    """A link that nothing needs, with the reason for people."""

    link: Link
    reason: str


def dead_links(view: RepositoryView, rules: Rules, needed: Iterable[bytes] = ()) -> list[DeadLink]:
    """Return the links of *view* that may be removed by *rules*; manifests *needed* stay."""
    if view.problems or (rules.need_manifests and _is_of_an_old_registry(view)):
        return []
    kept = _closure({*_kept_roots(view, rules), *needed}, view.references)
    dead = [
        DeadLink(link, "no tag refers to it")
        for link in view.of_kind(LinkKind.REVISION)
        if link.target not in kept and link.digest not in kept
    ]
    dead += _dead_history(view, rules, {link.digest for link, _ in dead})
    if rules.layers:
        dead += _dead_layers(view, rules, kept)
    return dead


def old_registry_problem(view: RepositoryView) -> str | None:
    """Return why the links of a repository of an old registry stay; None for other ones."""
    if _is_of_an_old_registry(view):
        return "an old registry linked manifests as layers, or signatures"
    return None


def _is_of_an_old_registry(view: RepositoryView) -> bool:
    """True if manifests are linked as layers (2.1.0), or revisions have signatures (before 2.5)."""
    if any(True for _ in view.of_kind(LinkKind.SIGNATURE)):
        return True
    revisions = {link.digest for link in view.of_kind(LinkKind.REVISION)}
    layers = {link.digest for link in view.of_kind(LinkKind.LAYER)}
    tagged = {link.target for link in view.of_kind(LinkKind.CURRENT, LinkKind.INDEX)}
    return not (tagged - revisions).isdisjoint(layers)


def _kept_roots(view: RepositoryView, rules: Rules) -> set[bytes]:
    """Return the manifests that stay by themselves: the tagged and the young."""
    roots = {link.target for link in view.of_kind(LinkKind.CURRENT)}
    if not rules.untagged:
        roots |= view.roots()
    for link in view.of_kind(LinkKind.REVISION, LinkKind.INDEX):
        if link.mtime >= rules.before_ns:
            roots.add(link.target)
    return roots


def _closure(roots: Iterable[bytes], references: Mapping[bytes, Sequence[Reference]]) -> set[bytes]:
    """Return *roots* with the children and the referrers of each, transitively."""
    referrers = defaultdict[bytes, list[bytes]](list)
    for manifest, found in references.items():
        for kind, digest in found:
            if kind == ReferenceKind.SUBJECT:
                referrers[digest].append(manifest)
    kept: set[bytes] = set()
    pending = list(roots)
    while pending:
        manifest = pending.pop()
        if manifest not in kept:
            kept.add(manifest)
            pending += (d for kind, d in references.get(manifest, ()) if kind in DOWN)
            pending += referrers.get(manifest, ())
    return kept


def _dead_history(
    view: RepositoryView, rules: Rules, dead_revisions: set[bytes | None]
) -> Iterator[DeadLink]:
    """Yield the entries of tags' histories whose revision goes, or is gone."""
    held = {link.digest for link in view.of_kind(LinkKind.REVISION, LinkKind.LAYER)}
    held |= {link.target for link in view.of_kind(LinkKind.CURRENT)}
    for link in view.of_kind(LinkKind.INDEX):
        if link.digest in dead_revisions:
            yield DeadLink(link, "its revision has no tag")
        elif link.digest not in held and link.mtime < rules.before_ns:
            yield DeadLink(link, "its revision was deleted")


def _dead_layers(view: RepositoryView, rules: Rules, kept: set[bytes]) -> Iterator[DeadLink]:
    """Yield the links of layers that no kept manifest names, by their digest or by an alias."""
    named = set(kept)
    for manifest in kept:
        named.update(digest for _, digest in view.references.get(manifest, ()))
    layers = list(view.of_kind(LinkKind.LAYER))
    needed = named | {link.target for link in layers if link.digest in named}
    for link in layers:
        if link.target not in needed and link.digest not in needed and link.mtime < rules.before_ns:
            yield DeadLink(link, "no manifest names it")
