// Command speaker runs the routing package alone on a host of a lab, for tests and benchmarks of
// routing. It is told what to do, and tells what it learns, in lines of JSON over a unix socket;
// package lab has the client and the messages.
//
//	speaker CONFIG SOCKET
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"ingot/routing"
	"ingot/test/lab"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "speaker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: speaker CONFIG SOCKET")
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var cfg routing.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := os.RemoveAll(args[1]); err != nil {
		return err
	}
	listener, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	c := &control{out: json.NewEncoder(conn)}
	c.speaker, err = routing.New(cfg, func(updates []routing.RouteUpdate) {
		c.send(lab.SpeakerEvent{Updates: updates})
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel() // the test hung up
		c.obey(ctx, json.NewDecoder(conn))
	}()
	go func() {
		select {
		case <-c.speaker.Synced():
			c.send(lab.SpeakerEvent{Synced: true})
		case <-ctx.Done():
		}
	}()
	return c.speaker.Run(ctx)
}

type control struct {
	speaker *routing.Speaker
	mu      sync.Mutex // guards out
	out     *json.Encoder
}

func (c *control) send(e lab.SpeakerEvent) {
	e.At = time.Now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(e) // the reader has gone: so will this process
}

func (c *control) obey(ctx context.Context, in *json.Decoder) {
	for {
		var order lab.SpeakerOrder
		if in.Decode(&order) != nil {
			return
		}
		var answer lab.SpeakerEvent
		switch {
		case order.Announce != nil:
			if err := c.speaker.Announce(ctx, *order.Announce); err != nil {
				answer.Error = err.Error()
			}
		case order.Import != nil:
			c.speaker.Import(*order.Import)
		}
		status := c.speaker.Status()
		answer.Status = &status
		c.send(answer)
	}
}
