"""The commands ``blobfs tag``, ``untag`` and ``rm``, which change one repository."""

from __future__ import annotations

import click

from blobfs.cache.factory import strict_cache_for
from blobfs.cli.opening import open_existing
from blobfs.cli.storage import Storage
from blobfs.cli.types import NAME, REFERENCE, STORAGE, Parsed, redis_option
from blobfs.digest import Digest
from blobfs.errors import Exists, ManifestUnknown, NotPermitted
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository


@click.command()
@STORAGE
@click.argument("reference", type=REFERENCE)
@click.argument("new", metavar="TAG", type=Parsed("tag", Tag))
@click.option("--replace", is_flag=True, help="Replace the tag if it exists.")
def tag(storage: str, reference: Reference, new: Tag, *, replace: bool) -> None:
    """Set TAG to the manifest of REFERENCE in its repository in STORAGE.

    REFERENCE is REPOSITORY:TAG or REPOSITORY@DIGEST.
    """
    with open_existing(storage) as registry:
        repository = registry.existing(reference.repository)
        digest = _digest(repository, reference)
        if not repository.manifests.links.has(digest):
            raise ManifestUnknown(digest)
        if not replace and repository.tags.exists(new) and repository.tags.get(new) != digest:
            raise Exists(f"{repository.name}:{new} exists; --replace sets it anew")
        repository.tags.tag(new, digest)
    click.echo(f"{reference.repository}:{new} is {digest}")


@click.command()
@STORAGE
@click.argument("reference", metavar="REPOSITORY:TAG", type=REFERENCE)
def untag(storage: str, reference: Reference) -> None:
    """Remove a tag in STORAGE; blobfs undelete brings it back. Its manifest stays."""
    if not isinstance(reference.target, Tag):
        raise click.UsageError("give REPOSITORY:TAG; blobfs rm removes a manifest")
    with open_existing(storage) as registry:
        _remove_tag(registry.existing(reference.repository), reference.target)


@click.command()
@STORAGE
@click.argument(
    "target",
    metavar="REPOSITORY|REPOSITORY:TAG|REPOSITORY@DIGEST",
    type=NAME,
)
@click.option("-r", "--recursive", is_flag=True, help="Remove a whole repository.")
@click.option("-f", "--force", is_flag=True, help="Remove the tags of a manifest too.")
@redis_option("Redis of the registries.  [default: that of a configuration file]")
def rm(
    storage: str,
    target: RepositoryName | Reference,
    *,
    recursive: bool,
    force: bool,
    cache: str | None,
) -> None:
    """Remove a tag, a manifest, or with -r a repository in STORAGE.

    Blobs stay until blobfs gc. A removed repository or manifest cannot be brought back; a tag can,
    by blobfs undelete. Repositories below a removed one stay.
    """
    given = Storage.of_argument(storage)
    with given.open(strict_cache_for(cache or given.redis)) as registry:
        match target:
            case Reference(name, Tag() as found):
                _remove_tag(registry.existing(name), found)
            case Reference(name, Digest() as digest):
                _remove_manifest(registry.existing(name), digest, force=force)
            case RepositoryName() as name:
                _remove_repository(registry.existing(name), registry, recursive=recursive)
    if not isinstance(target, Reference) or isinstance(target.target, Digest):
        click.echo(f"{target} is removed; its blobs stay until blobfs gc")


def _digest(repository: Repository, reference: Reference) -> Digest:
    target = reference.target
    return target if isinstance(target, Digest) else repository.tags.get(target)


def _remove_tag(repository: Repository, tag: Tag) -> None:
    repository.trash.put(tag, repository.tags.get(tag))
    click.echo(f"{repository.name}:{tag} is removed; its manifest stays until blobfs gc --untagged")


def _remove_manifest(repository: Repository, digest: Digest, *, force: bool) -> None:
    if not repository.manifests.links.has(digest):
        raise ManifestUnknown(digest)
    tags = [tag for tag in repository.tags.enumerate() if repository.tags.get(tag) == digest]
    if tags and not force:
        raise NotPermitted(
            f"{digest} is tagged {', '.join(sorted(tags))}; remove the tags first, or give --force"
        )
    for found in tags:
        repository.trash.put(found, digest)
    repository.manifests.links.delete(digest)


def _remove_repository(repository: Repository, registry: Registry, *, recursive: bool) -> None:
    if not recursive:
        raise NotPermitted(f"{repository.name} is a repository; give -r to remove all of it")
    registry.remove(repository.name)
