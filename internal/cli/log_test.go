package cli

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// logFile is a log file that counts its writes.
type logFile struct {
	mu     sync.Mutex
	b      bytes.Buffer
	writes int
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes++
	return l.b.Write(p)
}

func (l *logFile) want(t *testing.T, when string, lines, writes int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := strings.Count(l.b.String(), "\n"); got != lines || l.writes != writes {
		t.Errorf("%s: %d lines in %d writes, want %d in %d", when, got, l.writes, lines, writes)
	}
}

func TestLogLinesAreWrittenTogetherAndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l logFile
		log, flush, err := newLog(&l, "json", "info")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("one")
		log.Warn("two")
		log.Debug("not asked for")
		l.want(t, "at first", 0, 0)
		time.Sleep(logDelay)
		synctest.Wait()
		l.want(t, "a moment later", 2, 1)
		log.Info("three")
		log.Error("four")
		l.want(t, "after an error", 4, 2)
		log.Info("five")
		flush()
		l.want(t, "at the end", 5, 3)
	})
}

func TestLogOnATerminalIsWrittenAtOnce(t *testing.T) {
	var l logFile
	log, _, err := newLog(&l, "console", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("one")
	l.want(t, "at once", 1, 1)
}

// fullDisk is a log file without room.
type fullDisk struct {
	logFile
	full bool
}

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.full {
		return 0, errors.New("no space left on device")
	}
	return f.logFile.Write(p)
}

func TestTheLogGoesOnAfterADiskWasFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &fullDisk{full: true}
		log, flush, err := newLog(l, "json", "info")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("lost")
		time.Sleep(logDelay)
		synctest.Wait()
		l.full = false
		log.Info("there is room again")
		flush()
		l.want(t, "with room", 1, 1)
	})
}
