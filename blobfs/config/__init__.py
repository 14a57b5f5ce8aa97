"""The configuration: the options of a mount, and a registry's ``config.yml``.

A registry's file can be the STORAGE of a command, or stand beside it. ``model`` declares each key
that blobfs takes, once: as a field of a dataclass with its type, default, use and secrecy.
``ignored_keys`` has all other keys with the reasons. From both come the search for unknown keys
(``known_keys``), the tables of the documentation (``key_table``) and ``blobfs config show``
(``report``).

A file takes these steps. ``yaml_file`` reads a tree of values with their lines. ``environment``
applies ``REGISTRY_`` variables to it. ``schema`` fills the model, and records the origin of each
key. ``registry_config`` translates the model to a location, a cache, notifications and defaults.

``settings`` holds the options of ``blobfs mount`` as one value, ``retention_rules`` reads the rules
of ``blobfs prune``.

* Errors name the line or the variable, and the key, and never the value, which can be a secret.
* Scalars stay text until the schema converts them: a password may be ``0123``.
* Unknown keys are no errors, as in a registry; they are reported.
"""
