"""The installed Chromium, and how it is started: without a network of its own."""

import os
import shutil

CHROMIUM = shutil.which(os.environ.get("CHROMIUM") or "chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
]
