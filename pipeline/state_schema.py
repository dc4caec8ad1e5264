"""The tables of a state file."""

FORMAT = 1
"""Of the tables below; a release reads the formats that CHANGELOG.md lists."""

TASK_MEMORY = "task-memory"
"""Name of a route's task memory among its monitors' rows."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE owner (one INTEGER PRIMARY KEY CHECK (one = 1), owner_epoch INTEGER NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, heard_s REAL NOT NULL);
CREATE TABLE core (one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL);
CREATE TABLE monitor (route TEXT, name TEXT, snapshot BLOB NOT NULL,
    PRIMARY KEY (route, name)) WITHOUT ROWID;
CREATE TABLE scored (start INTEGER PRIMARY KEY, stop INTEGER NOT NULL, rows BLOB NOT NULL);
CREATE TABLE label (position INTEGER PRIMARY KEY, label REAL NOT NULL);
CREATE TABLE early_label (number INTEGER PRIMARY KEY, id TEXT UNIQUE, label REAL NOT NULL);
CREATE TABLE example (route TEXT, number INTEGER, example BLOB NOT NULL,
    PRIMARY KEY (route, number)) WITHOUT ROWID;
CREATE TABLE route (route TEXT PRIMARY KEY, labels INTEGER NOT NULL, open INTEGER NOT NULL,
    document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (number INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
    payload BLOB NOT NULL);
CREATE TABLE decision (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE intent (one INTEGER PRIMARY KEY CHECK (one = 1), entry BLOB NOT NULL);
"""
