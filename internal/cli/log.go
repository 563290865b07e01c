package cli

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

const (
	logDelay  = 100 * time.Millisecond
	logBuffer = 256 << 10 // bytes
)

// newLog returns a log on w, and what has the lines written that it holds. For a program, in JSON, lines are written
// together, at the latest logDelay after the first of them: a system call for each would be a part of what an event costs.
// Errors are written at once, with what stands before them. A killed process loses the lines that it held.
func newLog(w io.Writer, format, level string) (log *zap.Logger, flush func(), err error) {
	min, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, nil, usageError("--log-level: %q is none of debug, info, warn, error", level)
	}
	switch format {
	case "json":
		c := zap.NewProductionEncoderConfig()
		c.TimeKey, c.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
		lines := &lineWriter{w: w}
		atOnce := zap.Hooks(func(e zapcore.Entry) error {
			if e.Level >= zap.ErrorLevel {
				return lines.Sync()
			}
			return nil
		})
		log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(c), lines, min), atOnce)
		return log, func() { _ = lines.Sync() }, nil
	case "console":
		c := zap.NewDevelopmentEncoderConfig()
		c.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		if coloured(w) {
			c.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		core := zapcore.NewCore(zapcore.NewConsoleEncoder(c), zapcore.Lock(zapcore.AddSync(w)), min)
		return zap.New(core), func() {}, nil
	}
	return nil, nil, usageError("--log-format: %q is none of auto, json, console", format)
}

// lineWriter writes lines together. What cannot be written (the disk is full, say) is lost; what comes after is written
// again when it can be.
type lineWriter struct {
	w io.Writer

	mu    sync.Mutex
	lines bytes.Buffer
	timer *time.Timer // runs while there are lines
}

// Write takes a line.
func (l *lineWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines.Len() == 0 {
		l.timer = time.AfterFunc(logDelay, func() { _ = l.Sync() })
	}
	l.lines.Write(line)
	if l.lines.Len() < logBuffer {
		return len(line), nil
	}
	return len(line), l.flush()
}

// Sync writes the lines out. It does not wait for the disk.
func (l *lineWriter) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

func (l *lineWriter) flush() error {
	if l.lines.Len() == 0 {
		return nil
	}
	l.timer.Stop()
	_, err := l.w.Write(l.lines.Bytes())
	l.lines.Reset()
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func coloured(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}
