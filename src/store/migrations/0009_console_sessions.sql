-- Sessions of the web console that their users have ended, so that every gateway refuses a copy of their cookies. A row with an
-- empty session is for all sessions of its client that began until then. Times are unix milliseconds; a row is deleted when the
-- sessions that it is for would have ended by themselves.
CREATE TABLE ended_sessions (
    client TEXT NOT NULL,
    session TEXT NOT NULL,
    began_until BIGINT NOT NULL,
    forget BIGINT NOT NULL,
    PRIMARY KEY (client, session)
);
CREATE INDEX ended_sessions_by_forget ON ended_sessions (forget);
