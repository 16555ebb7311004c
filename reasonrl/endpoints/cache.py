"""Replies on disk, so that a killed run asks nothing twice.

One SQLite file: several processes may share it, a kill at any moment leaves it whole, and it takes no memory. It holds
request bodies and reply bodies; headers, and with them API keys, never reach it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonrl.endpoints.errors import EndpointSettingsError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY, path TEXT NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL,
  made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""
_PATIENCE = 20.0


class ReplyCache:
    """The replies of one file. Use it in one thread of one process; open it again after a fork.

    Args:
        path: the file; its folder is made.

    Raises:
        EndpointSettingsError: the file cannot be opened or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            # With a write-ahead log a commit needs no fsync to survive a killed process (only a killed machine).
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as problem:
            raise EndpointSettingsError(
                f"endpoint cache: {self.path} cannot be used as a cache: {problem} -> name another file"
            ) from problem

    def get(self, key: str) -> Any | None:
        """The decoded reply body of a key; None if there is none.

        Raises:
            EndpointSettingsError: the file is damaged.
        """
        try:
            row = self.database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as problem:
            raise EndpointSettingsError(
                f"endpoint cache: {self.path} cannot be read: {problem} -> move it away"
            ) from problem
        return None if row is None else json.loads(row[0])

    def put(self, key: str, path: str, request: Mapping[str, Any], reply: str) -> None:
        """Keep a reply; the first one of a key stays.

        Raises:
            sqlite3.Error: it could not be written, such as on a full disk.
        """
        row = (key, path, json.dumps(request), reply)
        self.database.execute("INSERT OR IGNORE INTO replies (key, path, request, reply) VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
