package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/test/need"
)

// elsewhere are the starts of README's commands that need hosts, or change this one. The demo and
// test/e2e run their like.
var elsewhere = []string{
	"make ", "ingot-agent ", "curl ", "umount ", "rm ", "ingot wait ", "ingot delete machinepool",
	"ingot events -n demo --watch",
}

// world gives the commands a host of their own: state in memory, a name for the control plane, the
// examples, and nothing that is reached from outside.
const world = `set -eu
ip link set lo up
mount -t tmpfs tmpfs /var/lib
echo "127.0.0.1 localhost control.example.net" > hosts
mount --bind hosts /etc/hosts
`

// serve is what stands for `ingot-control serve`: in the background, and waited for.
const serve = `ingot-control serve 2> serve.log &
server=$!
trap 'kill $server; wait $server || true' EXIT
until ingot --context /var/lib/ingot-control/admin.context get projects > /dev/null 2>&1; do
	kill -0 $server || { cat serve.log; exit 1; }
	sleep 0.1
done
cp /var/lib/ingot-control/admin.context .
`

func TestTheCommandsOfTheReadmeWork(t *testing.T) {
	need.Root(t)
	need.Commands(t, "unshare", "ip", "mount")
	bin := build(t)
	examples, err := filepath.Abs(filepath.Join(root, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(examples, filepath.Join(dir, "examples")); err != nil {
		t.Fatal(err)
	}
	script, run := world, 0
	for line := range strings.Lines(strings.Join((page{text: read(t, filepath.Join(root, "README.md"))}).blocks("sh"), "")) {
		switch {
		case slices.ContainsFunc(elsewhere, func(s string) bool { return strings.HasPrefix(line, s) }):
		case strings.HasPrefix(line, "ingot-control serve"):
			script += serve
		default:
			script += "echo '+" + strings.ReplaceAll(strings.TrimSpace(line), "'", "") + "'\n" + line
			run++
		}
	}
	if run < 10 {
		t.Errorf("README.md has %d commands that can be run here; were they read?", run)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--net", "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
