package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

const (
	crashEnv     = "STORETEST_CRASH_PATH"
	crashWriters = 4
	crashRounds  = 20
)

// Crash kills a process that writes to a durable store, with SIGKILL and at random, and looks what
// is there after it: every transaction that was answered, and none in part. Open opens the store at
// path. The calling test must do nothing else, as it is also the process that gets killed.
func Crash(t *testing.T, open func(t *testing.T, path string) store.Store) {
	if path := os.Getenv(crashEnv); path != "" {
		crashWrite(t, open(t, path))
		return
	}
	path := filepath.Join(t.TempDir(), "store")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	answered := make([]int, crashWriters)
	var revision uint64
	for round := range crashRounds {
		if round == crashRounds/2 {
			crashChild(t, path, 0, answered) // killed while it opens the store
		}
		crashChild(t, path, 1+random.IntN(400), answered)
		s := open(t, path)
		for w := range crashWriters {
			answered[w] = crashCheck(t, s, w, answered[w])
		}
		if s.Revision() < revision {
			t.Errorf("revision went from %d back to %d", revision, s.Revision())
		}
		revision = s.Revision()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("answered %v in %d lives", answered, crashRounds)
}

// crashChild runs the writing process until it has answered some transactions, kills it, and notes
// in answered the last of each writer.
func crashChild(t *testing.T, path string, lines int, answered []int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), crashEnv+"="+path)
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n == lines {
			child.Process.Kill()
		}
		line, err := reader.ReadString('\n') // what it said before it died counts, too
		if errors.Is(err, io.EOF) {
			break
		}
		word, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		w, err1 := strconv.Atoi(word)
		i, err2 := strconv.Atoi(number)
		if err := errors.Join(err, err1, err2); err != nil {
			t.Fatalf("child said %q: %v\n%s", line, err, stderr.String())
		}
		answered[w] = i
	}
	child.Wait() // killed
	if stderr.Len() > 0 {
		t.Fatalf("child: %s", stderr.String())
	}
}

// crashWrite writes until it is killed. Transaction i of a writer sets its left and right to i,
// adds i and takes i-2 away.
func crashWrite(t *testing.T, s store.Store) {
	var output sync.Mutex
	var group sync.WaitGroup
	for w := range crashWriters {
		group.Go(func() {
			for i := crashPosition(t, s, w) + 1; ; i++ {
				op := store.Update
				if i == 1 {
					op = store.Create
				}
				ops := []store.Op{
					{Type: op, Resource: crashResource(w, "left", i)}, {Type: op, Resource: crashResource(w, "right", i)},
					{Type: store.Create, Resource: crashResource(w, strconv.Itoa(i), i)},
				}
				if i > 2 {
					ops = append(ops, store.Op{Type: store.Delete, Resource: crashResource(w, strconv.Itoa(i-2), 0)})
				}
				if _, err := s.Txn(t.Context(), store.Txn{Ops: ops}); err != nil {
					fmt.Fprintf(os.Stderr, "writer %d: %v\n", w, err)
					return
				}
				output.Lock()
				fmt.Printf("%d %d\n", w, i)
				output.Unlock()
			}
		})
	}
	group.Wait()
}

func crashResource(w int, name string, v int) *resource.Resource {
	kind := Server
	if name == "right" {
		kind = Token // what belongs together lies in two kinds
	}
	return New(kind, fmt.Sprint("writer", w), name, "v", strconv.Itoa(v))
}

// crashPosition is the last transaction of writer w that is in the store; 0: none.
func crashPosition(t *testing.T, s store.Store, w int) int {
	left, err := s.Get(t.Context(), crashResource(w, "left", 0).Key)
	if errors.Is(err, fault.NotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	i, err := strconv.Atoi(Field(left, "v"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// crashCheck checks what writer w left, and returns the last transaction of it.
func crashCheck(t *testing.T, s store.Store, w, answered int) int {
	t.Helper()
	position := crashPosition(t, s, w)
	if position != answered && position != answered+1 {
		t.Errorf("writer %d was answered %d and has %d", w, answered, position)
	}
	if position == 0 {
		return 0
	}
	right, err := s.Get(t.Context(), crashResource(w, "right", 0).Key)
	if err != nil || Field(right, "v") != strconv.Itoa(position) {
		t.Errorf("writer %d: left is %d, right %v, %v", w, position, right, err)
	}
	page, err := s.List(t.Context(), store.Query{Kind: Server, Project: fmt.Sprint("writer", w)})
	if err != nil {
		t.Fatal(err)
	}
	want := 2 + min(position-1, 1) // left, the last one, and the one before it
	if len(page.Items) != want {
		t.Errorf("writer %d at %d has %d resources, want %d: %s", w, position, len(page.Items), want, names(page))
	}
	return position
}
