"""The Linux side of a mount: process, signals, systemd, checks before a mount, unmounting."""
