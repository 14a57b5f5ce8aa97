"""A collection that deletes: its steps, what registries do between them, and interruptions.

The wait for the settling time stands for the moment in which another program acts.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.maintenance.gc import planfile
from blobfs.maintenance.gc.collector import Collection, Feedback
from blobfs.maintenance.gc.planfile import PlanFile
from blobfs.reference import RepositoryName, Tag
from tests.maintenance.gc.conftest import AT_ONCE, Garbage, forbid, later
from tests.support.layout import APP, LATEST, image, index

OTHER = RepositoryName("other")


def once(call: Callable[[], object]) -> Callable[[float], None]:
    """A wait in which *call* is called the first time."""
    calls = iter([call])

    def wait(_seconds: float) -> None:
        for each in calls:
            each()
            return

    return wait


def aside(digest: Digest) -> str:
    return paths.blob_aside(digest, "of-a-killed-run")


def test_dead_image_is_deleted_and_the_tagged_one_stays(garbage: Garbage) -> None:
    """[S19.28] `--delete` removes dead links at once, and their blobs after `--grace`."""
    layout = garbage.layout
    old_layer, new_layer = layout.layer(b"old"), layout.layer(b"new")
    old, new = layout.revision(image(old_layer)), layout.revision(image(new_layer))
    layout.tag(old)
    layout.tag(new)
    outcome = garbage.delete()
    assert outcome.links == {(APP, "revision"): 1, (APP, "history"): 1, (APP, "layer"): 1}
    assert [each.repository for each in outcome.freed] == [APP]
    assert [each.blobs for each in outcome.freed] == [2]
    assert [garbage.has_blob(each) for each in (old, old_layer, new, new_layer)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert garbage.has_revision(new)
    assert not garbage.has_revision(old)
    assert not garbage.has_aside(old)


def test_blob_waits_for_the_end_of_the_grace(garbage: Garbage) -> None:
    layer = garbage.layout.layer(b"old")
    outcome = garbage.delete(later(grace_s=3600))
    assert not garbage.has_layer(layer)
    assert garbage.has_blob(layer)
    assert outcome.due_at is not None
    garbage.delete(later(grace_s=3600))
    assert garbage.has_blob(layer)
    garbage.delete()
    assert not garbage.has_blob(layer)


def test_short_grace_ends_in_the_same_run(garbage: Garbage) -> None:
    """[S19.28] In the same run if that is at most a minute or with `--wait`."""
    layer = garbage.layout.layer(b"old")
    garbage.delete(later(grace_s=0.2), wait=time.sleep)
    assert not garbage.has_blob(layer)


@pytest.mark.parametrize("link_set", [paths.layers(OTHER), paths.revisions(OTHER)])
def test_blob_that_is_linked_during_the_settling_time_is_put_back(
    garbage: Garbage, link_set: str
) -> None:
    """[S19.29] A blob that a registry or a mount links while `gc` runs stays."""
    blob = garbage.layout.blob(image(garbage.layout.blob(b"config")))
    outcome = garbage.delete(wait=once(lambda: garbage.layout.link(link_set, blob)))
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(blob)
    assert sum(each.blobs for each in outcome.freed) < 2


def test_blob_is_not_visible_during_the_settling_time(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    seen: list[bool] = []
    garbage.delete(wait=once(lambda: seen.append(garbage.has_blob(blob))))
    assert seen == [False]


def test_blob_that_is_stored_again_meanwhile_is_not_touched(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    garbage.delete(wait=once(lambda: garbage.layout.layer(b"of nobody", OTHER)))
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(blob)


def test_other_content_under_the_same_digest_is_reported_and_both_stay(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")

    def store_half() -> None:
        garbage.layout.put(paths.blob_data(blob), b"of no")
        garbage.layout.link(paths.layers(OTHER), blob)

    outcome = garbage.delete(wait=once(store_half))
    assert len(outcome.left) == 1
    assert garbage.has_aside(blob)
    assert garbage.has_blob(blob)


@pytest.mark.parametrize("whole", ["a", "z"])
@pytest.mark.parametrize("others", [b"cont", b"longer than the content"])
def test_data_with_the_digest_are_put_back_first(
    garbage: Garbage, whole: str, others: bytes
) -> None:
    """[S19.39] Of data of several sizes that were set aside, those with the digest are put back.
    The others stay aside, and are reported.
    """
    blob = garbage.layout.layer(b"content")
    garbage.layout.driver.move(paths.blob_data(blob), aside(blob) + whole)
    for name in "bc":
        garbage.layout.put(aside(blob) + name, others)
    outcome = garbage.delete(replace(AT_ONCE, layers=False))
    assert garbage.layout.driver.read_at(paths.blob_data(blob), 0, 99) == b"content"
    assert garbage.layout.driver.read_at(aside(blob) + "b", 0, 99) == others
    assert len(outcome.left) == 1


def test_manifest_that_names_the_blob_without_a_link_keeps_it(garbage: Garbage) -> None:
    """A registry whose cache is stale does not look at the link."""
    blob = garbage.layout.blob(b"of nobody")
    garbage.delete(wait=once(lambda: garbage.layout.revision(image(blob), OTHER)))
    assert garbage.has_blob(blob)


@pytest.mark.parametrize("is_child", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_manifest_that_is_needed_meanwhile_keeps_its_parts(
    garbage: Garbage, *, is_child: bool, is_known: bool
) -> None:
    """It is set aside too, so it cannot be read unless an earlier run has done so."""
    layout = garbage.layout
    config = layout.blob(b"config")
    manifest = layout.blob(image(config))
    link = Path(garbage.url) / paths.link(paths.revisions(OTHER), manifest)[1:]
    if is_known:
        layout.link(paths.revisions(OTHER), manifest)
        garbage.planned(later(age_s=3600))
        link.unlink()

    def push() -> None:
        if is_child:
            layout.revision(index(manifest))
        else:
            layout.link(paths.revisions(OTHER), manifest)

    garbage.delete(replace(AT_ONCE, layers=False, untagged=False), wait=once(push))
    assert garbage.has_blob(manifest)
    assert garbage.has_blob(config)


def test_upload_that_names_the_blob_keeps_it(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    record = json.dumps({"blob": str(blob)}).encode()
    garbage.delete(
        wait=once(lambda: garbage.layout.put(paths.upload_record(OTHER, "some-id"), record))
    )
    assert garbage.has_blob(blob)


def test_directory_that_becomes_unreadable_keeps_all_blobs(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    garbage.layout.layer(b"used", OTHER)
    link = Path(garbage.url) / paths.REPOSITORIES[1:] / "elsewhere"
    outcome = garbage.delete(
        replace(AT_ONCE, layers=False), wait=once(lambda: link.symlink_to("/"))
    )
    assert outcome.blocked is not None
    assert garbage.has_blob(blob)


def test_manifest_that_access_is_denied_to_meanwhile_keeps_all_blobs(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")

    def push() -> None:
        forbid(garbage, garbage.layout.revision(image(blob), OTHER))

    assert garbage.delete(wait=once(push)).blocked is not None
    assert garbage.has_blob(blob)


def test_refusal_of_the_first_look_is_reported(garbage: Garbage) -> None:
    """Also if an earlier batch is completed by a second look, which can read all."""
    blob, earlier = garbage.layout.blob(b"of nobody"), garbage.layout.blob(b"set aside")
    garbage.layout.driver.move(paths.blob_data(earlier), aside(earlier))
    link = Path(garbage.url) / paths.REPOSITORIES[1:] / "elsewhere"

    def hide(kind: str, _count: int) -> None:
        if kind == "manifests":  # the last of a pass
            link.symlink_to("/")

    feedback = Feedback(hide, once(link.unlink))
    collection = Collection(garbage.url, garbage.state, AT_ONCE, garbage.cache, feedback)
    outcome = collection.run()
    assert outcome.blocked is not None
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(earlier)


def test_blob_that_is_gone_already_is_not_counted(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    directory = Path(garbage.url) / paths.blob_data(blob)[1:].removesuffix("/data")
    outcome = garbage.delete(wait=once(lambda: shutil.rmtree(directory)))
    assert outcome.freed == []


def test_layer_of_a_manifest_that_is_stored_meanwhile_is_linked_again(garbage: Garbage) -> None:
    """[S19.30] A removed link that a new manifest or tag needs is restored by the same run, or by
    each later one within `--grace`.
    """
    layer = garbage.layout.layer(b"layer")
    options = later(grace_s=3600)
    outcome = garbage.delete(options, wait=once(lambda: garbage.layout.revision(image(layer))))
    assert garbage.has_layer(layer)
    assert +outcome.links == {}


def test_later_run_restores_what_a_slow_push_needs(garbage: Garbage) -> None:
    layer = garbage.layout.layer(b"layer")
    options = later(grace_s=3600)
    garbage.delete(options)
    assert not garbage.has_layer(layer)
    garbage.layout.tag(garbage.layout.revision(image(layer)))
    garbage.delete(options)
    assert garbage.has_layer(layer)


@pytest.mark.parametrize("age_s", [0, 86400])
def test_run_with_other_options_restores_only_what_a_push_needs(
    garbage: Garbage, age_s: float
) -> None:
    layout = garbage.layout
    dead, needed = layout.layer(b"dead"), layout.layer(b"needed")
    untagged = layout.revision(image(dead))
    garbage.delete(later(grace_s=3600))
    layout.tag(layout.revision(image(needed)))
    options = replace(AT_ONCE, layers=False, untagged=False, age_s=age_s, grace_s=3600)
    garbage.delete(options)
    assert not garbage.has_layer(dead)
    assert not garbage.has_revision(untagged)
    assert garbage.has_layer(needed)


def test_links_of_two_runs_stay_removed_by_the_options_of_each(garbage: Garbage) -> None:
    layout = garbage.layout
    layer = layout.layer(b"of no manifest")
    untagged = layout.revision(image(layout.layer(b"layer")))
    garbage.delete(replace(AT_ONCE, untagged=False, grace_s=3600))
    assert garbage.has_revision(untagged)
    garbage.delete(replace(AT_ONCE, layers=False, grace_s=3600))
    garbage.delete(replace(AT_ONCE, layers=False, untagged=False, grace_s=3600))
    assert not garbage.has_layer(layer)
    assert not garbage.has_revision(untagged)


def test_tag_brings_an_image_back_with_its_layers_and_children(garbage: Garbage) -> None:
    layout = garbage.layout
    layer = layout.layer(b"layer")
    child = layout.revision(image(layer))
    parent = layout.revision(index(child))
    layout.tag(parent)
    layout.tag(layout.revision(image(layout.layer(b"next"))))
    options = later(grace_s=3600)
    garbage.delete(options, wait=once(lambda: layout.tag(parent, Tag("again"))))
    assert garbage.has_revision(parent)
    assert garbage.has_revision(child)
    assert garbage.has_layer(layer)
    assert garbage.has(paths.link(paths.tag_index(APP, LATEST), parent))


def test_removed_links_are_cleared_in_the_cache(garbage: Garbage) -> None:
    """[S19.31] With `--cache` Redis forgets what was removed."""
    layer = garbage.layout.layer(b"layer")

    def cache() -> None:
        """Set what a registry has read before."""
        garbage.cache.set(layer, Descriptor(layer, 5), APP)

    cache()
    garbage.delete(later(grace_s=3600), wait=once(cache))
    assert garbage.cache.stat(layer, APP) is None
    garbage.cache.set(layer, Descriptor(layer, 5), OTHER)
    garbage.delete()
    assert garbage.cache.stat(layer) is None
    assert garbage.cache.stat(layer, OTHER) is None


def test_interrupted_run_puts_blobs_back(garbage: Garbage) -> None:
    """[S19.32] The next run completes or undoes what it has begun."""
    blob = garbage.layout.blob(b"of nobody")

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        garbage.delete(wait=interrupt)
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(blob)
    garbage.delete()
    assert not garbage.has_blob(blob)


@pytest.mark.parametrize("is_linked", [True, False])
def test_next_run_completes_what_a_killed_one_has_set_aside(
    garbage: Garbage, is_linked: bool
) -> None:
    blob = garbage.layout.blob(b"content")
    garbage.layout.driver.move(paths.blob_data(blob), aside(blob))
    if is_linked:
        garbage.layout.link(paths.layers(OTHER), blob)
    garbage.delete(replace(AT_ONCE, layers=False))
    assert garbage.has_blob(blob) is is_linked
    assert not garbage.has_aside(blob)


def approved(garbage: Garbage, file: Path, *kinds: str) -> PlanFile:
    with garbage.collection().planned() as plan:
        planfile.write(file, (e for e in plan.entries() if not kinds or e.kind in kinds))
    return PlanFile.read(file)


def test_only_the_approved_part_of_a_plan_is_done(garbage: Garbage, tmp_path: Path) -> None:
    """[S19.33] `--apply` deletes those entries of a plan that may still go, and lists those that
    may not.
    """
    stray = garbage.layout.blob(b"of nobody")
    layer = garbage.layout.layer(b"old")
    outcome = garbage.delete(approved=approved(garbage, tmp_path / "plan", "blob"))
    assert not garbage.has_blob(stray)
    assert garbage.has_layer(layer)
    assert [str(key) for key in outcome.refused] == [f"blob {layer}"]


def test_manifest_that_is_removed_from_a_plan_keeps_its_links(
    garbage: Garbage, tmp_path: Path
) -> None:
    """[S19.33] A manifest whose entry was removed from the plan keeps all that it needs."""
    layout, file = garbage.layout, tmp_path / "plan"
    layer = layout.layer(b"config")
    child = layout.revision(image(layer))
    parent = layout.revision(index(child))
    other = layout.revision(image(layout.layer(b"of another manifest")))
    approved(garbage, file)
    lines = [line for line in file.read_text().splitlines() if str(parent) not in line]
    file.write_text("\n".join(lines))
    outcome = garbage.delete(approved=PlanFile.read(file))
    assert [*map(garbage.has_revision, [parent, child, other])] == [True, True, False]
    assert garbage.has_layer(layer)
    assert sorted(map(str, outcome.refused)) == sorted(
        [f"revision {APP} {child}", f"blob {child}", f"layer {APP} {layer}", f"blob {layer}"]
    )


def test_entry_of_a_plan_that_is_needed_again_is_refused(garbage: Garbage, tmp_path: Path) -> None:
    blob = garbage.layout.blob(b"of nobody")
    gone = garbage.layout.blob(b"gone meanwhile")
    plan = approved(garbage, tmp_path / "plan")
    garbage.layout.link(paths.layers(OTHER), blob)
    garbage.layout.driver.delete(paths.blob_data(gone))
    outcome = garbage.delete(replace(AT_ONCE, layers=False), approved=plan)
    assert garbage.has_blob(blob)
    assert [str(key) for key in outcome.refused] == [f"blob {blob}"]
