"""The handlers of distribution's HTTP API."""
