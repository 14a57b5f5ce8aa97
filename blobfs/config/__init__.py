"""Options of a mount and a registry's config.yml."""
