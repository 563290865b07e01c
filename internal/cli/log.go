package cli

import (
	"io"
	"os"
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
// Errors are written at once, with what stands before them.
func newLog(w io.Writer, format, level string) (log *zap.Logger, flush func(), err error) {
	min, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, nil, usageError("--log-level: %q is none of debug, info, warn, error", level)
	}
	switch format {
	case "json":
		c := zap.NewProductionEncoderConfig()
		c.TimeKey, c.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
		plain := struct{ io.Writer }{w} // without Sync: an fsync of a log file would wait for the disk
		lines := &zapcore.BufferedWriteSyncer{WS: zapcore.AddSync(plain), Size: logBuffer, FlushInterval: logDelay}
		atOnce := zap.Hooks(func(e zapcore.Entry) error {
			if e.Level >= zap.ErrorLevel {
				return lines.Sync()
			}
			return nil
		})
		return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(c), lines, min), atOnce), func() { _ = lines.Stop() }, nil
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

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func coloured(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}
