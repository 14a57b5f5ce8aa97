"""The rules against a plain description, for any repository."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.inventory.rows import LinkKind
from blobfs.inventory.scanning import ReferenceKind
from blobfs.maintenance.gc.rules import Link, Reference, RepositoryView, Rules, dead_links

OLD, YOUNG, BEFORE = 1, 9, 5
MANIFESTS = [bytes((0, number)) for number in range(6)]
LAYERS = [bytes((1, number)) for number in range(4)]
ALIASES = {bytes((2, number)): layer for number, layer in enumerate(LAYERS[:2])}

manifests = st.sampled_from(MANIFESTS)
times = st.sampled_from([OLD, OLD, YOUNG])
references = st.lists(
    st.one_of(
        st.tuples(st.just(int(ReferenceKind.CHILD)), manifests),
        st.tuples(st.just(int(ReferenceKind.SUBJECT)), manifests),
        st.tuples(st.just(int(ReferenceKind.LAYER)), st.sampled_from([*LAYERS, *ALIASES])),
    ),
    max_size=4,
)


@st.composite
def views(draw: st.DrawFn) -> RepositoryView:
    """A repository that can be read: revisions, tags with histories, layers and aliases."""
    revisions = draw(st.dictionaries(manifests, times))
    links = [Link(LinkKind.REVISION, "", each, each, time) for each, time in revisions.items()]
    for tag in draw(st.sets(st.sampled_from("ab"))):
        past = draw(st.dictionaries(manifests, times, min_size=1))
        links += [Link(LinkKind.INDEX, tag, each, each, time) for each, time in past.items()]
        current = draw(st.sampled_from(list(past)))
        links.append(Link(LinkKind.CURRENT, tag, None, current, OLD))
    for digest, time in draw(st.dictionaries(st.sampled_from(LAYERS), times)).items():
        links.append(Link(LinkKind.LAYER, "", digest, digest, time))
    for digest, time in draw(st.dictionaries(st.sampled_from(list(ALIASES)), times)).items():
        links.append(Link(LinkKind.LAYER, "", digest, ALIASES[digest], time))
    view = RepositoryView("team/app", links)
    view.references = {each: draw(references) for each in sorted(view.roots())}
    return view


def next_to(kept: set[bytes], view: RepositoryView) -> set[bytes]:
    """The children and the referrers of some manifests."""
    edges = [(one, *each) for one, found in view.references.items() for each in found]
    children = {d for one, kind, d in edges if kind == ReferenceKind.CHILD and one in kept}
    return children | {one for one, kind, d in edges if kind == ReferenceKind.SUBJECT and d in kept}


def needed(view: RepositoryView, *, untagged: bool) -> set[bytes]:
    """The digests that tags and young manifests lead to, found one step at a time."""
    kept = {link.target for link in view.of_kind(LinkKind.CURRENT)}
    for link in view.of_kind(LinkKind.REVISION, LinkKind.INDEX):
        if link.mtime == YOUNG or (link.kind == LinkKind.REVISION and not untagged):
            kept.add(link.target)
    while (more := kept | next_to(kept, view)) != kept:
        kept = more
    found = [each for one in kept for each in view.references.get(one, ())]
    named = {digest for kind, digest in found if kind == ReferenceKind.LAYER}
    aliased = {
        ALIASES[digest]
        for digest in named
        if digest in ALIASES and _has(view, LinkKind.LAYER, digest)
    }
    return kept | named | aliased


def _has(view: RepositoryView, kind: LinkKind, digest: bytes | None) -> bool:
    return any(link.digest == digest for link in view.of_kind(kind))


@settings(max_examples=300)
@given(views(), st.booleans(), st.booleans())
def test_dead_is_what_is_old_and_not_needed(
    view: RepositoryView, layers: bool, untagged: bool
) -> None:
    rules = Rules(BEFORE, layers=layers, untagged=untagged)
    dead = {link for link, _ in dead_links(view, rules)}
    kept = needed(view, untagged=untagged)
    for link in view.of_kind(LinkKind.CURRENT):
        assert link not in dead
    for link in view.of_kind(LinkKind.REVISION):
        is_kept = not untagged or link.target in kept
        assert (link in dead) is not is_kept
    current = {link.target for link in view.of_kind(LinkKind.CURRENT)}
    for link in view.of_kind(LinkKind.INDEX):
        has_revision = _has(view, LinkKind.REVISION, link.digest)
        stays = has_revision and (not untagged or link.digest in kept)
        is_kept = link.mtime == YOUNG or link.digest in current or stays
        assert (link in dead) is not is_kept
    for link in view.of_kind(LinkKind.LAYER):
        is_kept = link.mtime == YOUNG or not {link.digest, link.target}.isdisjoint(kept)
        assert (link in dead) is (layers and not is_kept)


@settings(max_examples=300)
@given(views(), st.booleans(), st.booleans())
def test_nothing_more_is_dead_once_the_dead_are_gone(
    view: RepositoryView, layers: bool, untagged: bool
) -> None:
    rules = Rules(BEFORE, layers=layers, untagged=untagged)
    dead = {link for link, _ in dead_links(view, rules)}
    rest = replace(view, links=[link for link in view.links if link not in dead])
    rest.references = {each: view.references[each] for each in rest.roots()}
    assert dead_links(rest, rules) == []


def test_references_of_an_unlinked_manifest_do_not_count() -> None:
    old = Link(LinkKind.LAYER, "", LAYERS[0], LAYERS[0], OLD)
    found: Mapping[bytes, Sequence[Reference]] = {MANIFESTS[0]: [(ReferenceKind.LAYER, LAYERS[0])]}
    view = RepositoryView("team/app", [old], found)
    assert [link for link, _ in dead_links(view, Rules(BEFORE, layers=True))] == [old]
