"""The configuration of a mount: its own options, and a registry's ``config.yml``.

``settings`` holds the options of ``blobfs mount`` as one value. With ``--config`` a mount also
reads the file of the registry beside it, so that both use the same Redis and the same notification
endpoints, and a difference in the storage is an error at the start.

``yaml_file`` reads YAML into sections with typed getters. ``registry_config`` translates the
sections that blobfs uses. ``registry_keys`` knows the keys of distribution 2.8 and 3, and finds
misspelt ones.

* Errors name the file and the key, and never the value, which can be a secret.
* Scalars stay text until a getter converts them: a password may be ``0123``.
* Unknown keys are no errors, as in a registry; a key that is similar to a known one is reported.
"""
