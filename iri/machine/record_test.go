package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestRecordsAreReadBackAsWritten(t *testing.T) {
	st, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := wanted("uid-1")
	m.Spec.Volumes[0].Connection = &api.VolumeConnection{
		SecretData: map[string][]byte{"key": {0, 0xff}}, EncryptionData: map[string][]byte{"": {}},
	}
	want := &record{
		Metadata: newMetadata("one", m.Metadata), Spec: m.Spec, Resources: Resources{CPUs: 2, MemoryBytes: 3},
		Run: runStopping, GuestOff: true, Prepared: true, Boot: bootRecord{Kernel: true, Cmdline: "quiet"},
		Ports: []portRecord{{NIC: "a", Device: "tap0", MAC: "02:00:00:00:00:01", MTU: 1400, Handle: "h"}},
	}
	if err := st.save(want); err != nil {
		t.Fatal(err)
	}
	events := []event{{Time: 1, Type: normal, Reason: "Started", Message: "m"}}
	if err := st.saveEvents("one", events); err != nil {
		t.Fatal(err)
	}
	machines, corrupt, err := st.load()
	if err != nil || len(corrupt) != 0 {
		t.Fatal(err, corrupt)
	}
	if diff := cmp.Diff([]stored{{record: want, events: events}}, machines,
		cmp.AllowUnexported(stored{}), protocmp.Transform()); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}
}

func TestWhatIsNotARecordIsTolerated(t *testing.T) {
	tests := []struct {
		name, file, content string
		corrupt, removed    bool
	}{
		{name: "unfinished creation", file: "record.json.tmp", content: "{", removed: true},
		{name: "unfinished removal", file: "events.json", content: "[]", removed: true},
		{name: "empty record", file: "record.json", corrupt: true},
		{name: "another machine's record", file: "record.json", content: `{"format":1,"metadata":{"id":"x"},"spec":{}}`, corrupt: true},
		{name: "newer format", file: "record.json", content: `{"format":2,"metadata":{"id":"m"},"spec":{}}`, corrupt: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			st, err := openStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "m"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "m", test.file), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			machines, corrupt, err := st.load()
			if err != nil || len(machines) != 0 {
				t.Fatalf("load: %v, %v", machines, err)
			}
			if _, got := corrupt["m"]; got != test.corrupt {
				t.Errorf("corrupt: %v", corrupt)
			}
			if _, err := os.Stat(filepath.Join(dir, "m")); os.IsNotExist(err) != test.removed {
				t.Errorf("directory: %v", err)
			}
		})
	}
}

func TestEventRingForgetsTheOldestAndSkipsRepetition(t *testing.T) {
	var ring []event
	for i := range int64(100) {
		ring, _ = appendEvent(ring, event{Time: 1000 * i, Reason: "r"})
	}
	if len(ring) != eventRing || ring[0].Time != 36_000 {
		t.Errorf("%d events, the oldest of %d", len(ring), ring[0].Time)
	}
	if _, added := appendEvent(ring, event{Time: 99_001, Reason: "r"}); added {
		t.Error("a repetition was added")
	}
}

func TestDevicesAndSerials(t *testing.T) {
	volumes := []*api.Volume{{Device: "odb"}, {}, {Device: "oda"}, {Device: "odb"}, {Device: "nonsense"}}
	if diff := cmp.Diff([]string{"vdb", "vdc", "vda", "vdd", "vde"}, targets(volumes)); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	long := strings.Repeat("a", 21)
	if s := serial(long); len(s) != 20 || s == serial(long+"b") {
		t.Errorf("serial of a long name: %q", s)
	}
	if s := serial("root"); s != "root" {
		t.Errorf("serial: %q", s)
	}
}

func TestConsoleLogIsBoundedAndKeepsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for _, line := range []string{"first\n", "second\n", "third\n"} {
		if _, err := writer.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if err := rotate(path, 10); err != nil {
			t.Fatal(err)
		}
	}
	now, _ := os.ReadFile(path)
	old, _ := os.ReadFile(path + ".1")
	if string(now) != "third\n" || string(old) != "st\nsecond\n" {
		t.Errorf("log %q, before it %q", now, old)
	}
}
