-- fuzz.db. `user_version` is the version of this file: raise it with every change, and say in corpus/database.py how to read the older one.
PRAGMA user_version = 1;
-- What batches of cases added since the last folding: one row each, so that recording is one small write and a kill loses nothing.
CREATE TABLE pending (n INTEGER PRIMARY KEY, body TEXT NOT NULL);
-- Sums over the whole run. kind: cases, seconds, verdict, tested, rejected, feature ...; name: within the kind.
CREATE TABLE counters (kind TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
-- Cases kept in corpus/.
CREATE TABLE cases (id TEXT PRIMARY KEY, number INTEGER, why TEXT NOT NULL, seen REAL NOT NULL) WITHOUT ROWID;
-- One row per cause. status: new, known, flaky.
CREATE TABLE findings (
    key TEXT PRIMARY KEY, verdict TEXT NOT NULL, backend TEXT NOT NULL, setting TEXT NOT NULL, title TEXT NOT NULL, folder TEXT NOT NULL,
    status TEXT NOT NULL, known TEXT NOT NULL, reproduced INTEGER NOT NULL, repeats INTEGER NOT NULL, case_id TEXT NOT NULL, number INTEGER NOT NULL,
    count INTEGER NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL
) WITHOUT ROWID;
-- Keys under which a cause was met before its case was reduced, and the key it has since.
CREATE TABLE aliases (key TEXT PRIMARY KEY, finding TEXT NOT NULL) WITHOUT ROWID;
-- The first cases of each cause, to look at the grouping.
CREATE TABLE sightings (key TEXT NOT NULL, case_id TEXT NOT NULL, number INTEGER NOT NULL, seen REAL NOT NULL, PRIMARY KEY (key, case_id)) WITHOUT ROWID;
