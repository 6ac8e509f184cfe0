// Package libvirt is the only door to libvirt: it keeps a connection to one libvirtd, made again
// whenever it breaks, and defines, starts, stops and watches domains through it. It decides
// nothing: it never starts or stops a domain by itself, and a libvirtd that does not answer is
// reported as unavailable, never as a missing domain.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// Config configures a Hypervisor. Zero values are the defaults named.
type Config struct {
	// URI is libvirt's address. Default "qemu:///system"; a socket elsewhere is
	// "qemu+unix:///system?socket=PATH", PATH at most 107 bytes.
	URI string
	// RetryMin and RetryMax bound the back-off between attempts to connect.
	// Default 50 ms and 2 s.
	RetryMin, RetryMax time.Duration
	// KeepAlive is the interval of probes; after three without an answer the connection is given
	// up. Default 5 s.
	KeepAlive time.Duration
	// Log defaults to slog.Default.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.URI == "" {
		c.URI = "qemu:///system"
	}
	if c.RetryMin == 0 {
		c.RetryMin = 50 * time.Millisecond
	}
	if c.RetryMax == 0 {
		c.RetryMax = 2 * time.Second
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Validate reports all faults, joined.
func (c Config) Validate() error {
	if c.KeepAlive < 0 || c.RetryMin < 0 || c.RetryMax < 0 {
		return errors.New("durations must not be negative")
	}
	return nil
}

// keepAliveCount is how many unanswered probes end a connection.
const keepAliveCount = 3

// A Hypervisor is one libvirtd. Its methods are safe for concurrent use; until Run has connected,
// and whenever the connection is lost, they answer fault.Unavailable.
type Hypervisor struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	conn     *libvirt.Connect
	broken   chan struct{} // receives when conn died; made anew with each conn
	lastErr  error         // why conn is nil
	watchers map[int]func(domain.Event)
	nextID   int
}

// New returns a hypervisor that is not connected yet.
func New(cfg Config) (*Hypervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure libvirt: %w", err)
	}
	if err := startEventLoop(); err != nil {
		return nil, err
	}
	return &Hypervisor{
		cfg: cfg.withDefaults(), watchers: map[int]func(domain.Event){},
		lastErr: errors.New("not connected yet"),
	}, nil
}

// startEventLoop runs libvirt's event loop, of which a process has one, for the life of the process.
var startEventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("register libvirt event loop: %w", err)
	}
	go func() {
		for {
			if err := libvirt.EventRunDefaultImpl(); err != nil {
				slog.Error("libvirt event loop", "error", err)
				time.Sleep(time.Second)
			}
		}
	}()
	return nil
})

// Connected reports whether libvirtd is reached now.
func (h *Hypervisor) Connected() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn != nil
}

// Run connects, and connects again whenever the connection breaks, until ctx ends.
func (h *Hypervisor) Run(ctx context.Context) error {
	delay := h.cfg.RetryMin
	for attempt := 1; ; attempt++ {
		broken, err := h.connect()
		if err == nil {
			h.cfg.Log.Info("libvirt connected", "uri", h.cfg.URI, "attempts", attempt)
			attempt, delay = 0, h.cfg.RetryMin
			select {
			case <-ctx.Done():
			case <-broken:
				h.cfg.Log.Warn("libvirt connection lost", "uri", h.cfg.URI)
			}
			h.disconnect(errors.New("connection lost"))
		} else {
			h.disconnect(err)
			level := slog.LevelDebug
			if attempt == 3 {
				level = slog.LevelWarn
			}
			h.cfg.Log.Log(ctx, level, "libvirt not reached", "uri", h.cfg.URI, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, h.cfg.RetryMax)
	}
}

// connect makes the connection with its callbacks, publishes it, and tells the watchers that
// anything may have changed. The callbacks come first: no event is missed in between.
func (h *Hypervisor) connect() (<-chan struct{}, error) {
	conn, err := libvirt.NewConnect(h.cfg.URI)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	broken := make(chan struct{}, 1)
	err = errors.Join(
		conn.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) { signal(broken) }),
		conn.SetKeepAlive(int(h.cfg.KeepAlive/time.Second)+1, keepAliveCount),
	)
	if err == nil {
		_, err = conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventLifecycle) {
			if id, err := d.GetUUIDString(); err == nil {
				h.emit(domain.Event{ID: id})
			}
		})
	}
	if err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("register callbacks: %w", err)
	}
	h.mu.Lock()
	h.conn, h.broken, h.lastErr = conn, broken, nil
	h.mu.Unlock()
	h.emit(domain.Event{})
	return broken, nil
}

func (h *Hypervisor) disconnect(cause error) {
	h.mu.Lock()
	conn := h.conn
	h.conn, h.lastErr = nil, cause
	h.mu.Unlock()
	if conn != nil {
		closeConn(conn)
	}
}

// closeConn drops our reference. Calls under way hold their own; the last one closes.
func closeConn(conn *libvirt.Connect) {
	// Errors have no meaning here: the connection is given up either way.
	_ = conn.UnregisterCloseCallback()
	_, _ = conn.Close()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Watch calls fn for every event until ctx ends.
func (h *Hypervisor) Watch(ctx context.Context, fn func(domain.Event)) {
	h.mu.Lock()
	id := h.nextID
	h.nextID++
	h.watchers[id] = fn
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, id)
	})
}

func (h *Hypervisor) emit(e domain.Event) {
	h.mu.Lock()
	fns := make([]func(domain.Event), 0, len(h.watchers))
	for _, fn := range h.watchers {
		fns = append(fns, fn)
	}
	h.mu.Unlock()
	for _, fn := range fns {
		fn(e)
	}
}

// do runs call on the connection and returns when it ends or ctx does. libvirt's calls cannot be
// interrupted: one that is left goes on until it ends or keep-alive gives the connection up.
func (h *Hypervisor) do(ctx context.Context, call func(*libvirt.Connect) error) error {
	h.mu.Lock()
	conn, broken, cause := h.conn, h.broken, h.lastErr
	var err error
	if conn != nil {
		err = conn.Ref()
	}
	h.mu.Unlock()
	if conn == nil {
		return fmt.Errorf("libvirt at %s: %w: %w", h.cfg.URI, fault.Unavailable, cause)
	}
	if err != nil {
		return fmt.Errorf("hold libvirt connection: %w: %w", fault.Unavailable, err)
	}
	done := make(chan error, 1)
	go func() {
		err := classify(conn, call(conn))
		if errors.Is(err, fault.Unavailable) {
			signal(broken)
		}
		_, _ = conn.Close() // the reference taken above
		done <- err
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for libvirt: %w", ctx.Err())
	case err := <-done:
		return err
	}
}

// classify gives libvirt's errors a class. Only an explicit answer says that a domain is not
// there; whatever happens to a broken connection says nothing.
func classify(conn *libvirt.Connect, err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return err
	}
	if alive, aliveErr := conn.IsAlive(); aliveErr != nil || !alive {
		return fmt.Errorf("%w: %w", fault.Unavailable, err)
	}
	switch e.Code {
	case libvirt.ERR_NO_DOMAIN:
		return fmt.Errorf("%w: %w", fault.NotFound, err)
	case libvirt.ERR_OPERATION_INVALID:
		return fmt.Errorf("%w: %w", fault.Precondition, err)
	case libvirt.ERR_XML_ERROR, libvirt.ERR_XML_DETAIL, libvirt.ERR_XML_INVALID_SCHEMA:
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	case libvirt.ERR_CONFIG_UNSUPPORTED:
		return fmt.Errorf("%w: %w", fault.Unsupported, err)
	}
	return err
}
