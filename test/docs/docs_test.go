package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/agent"
)

const root = "../.."

// binaries are the programs whose use the pages show.
var binaries = []string{"ingot", "ingot-agent", "ingot-control"}

// A page is one document.
type page struct{ path, text string }

// pages returns README.md and all of docs/.
func pages(t *testing.T) []page {
	t.Helper()
	paths := []string{filepath.Join(root, "README.md")}
	for _, pattern := range []string{"docs/*.md", "docs/adr/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	var all []page
	for _, path := range paths {
		all = append(all, page{path: path, text: read(t, path)})
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fence = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")

// blocks returns the fenced blocks of a language.
func (p page) blocks(language string) []string {
	var all []string
	for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	return all
}

// commands returns the command lines of the page, those in `ticks` included, without comments.
func (p page) commands() [][]string {
	lines := strings.Split(strings.Join(p.blocks("sh"), "\n"), "\n")
	prose := fence.ReplaceAllString(p.text, "")
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(prose, -1) {
		lines = append(lines, m[1])
	}
	var all [][]string
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			all = append(all, words)
		}
	}
	return all
}

// build makes the binaries and returns their folder.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "ingot/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

var flag = regexp.MustCompile(`(?m)^\s+(?:(-\w), |\s+)(--[\w-]+)`)

// A program answers for what it understands.
type program struct {
	path string
	help map[string]string
}

func (p *program) usage(t *testing.T, command []string) string {
	t.Helper()
	key := strings.Join(command, " ")
	if _, ok := p.help[key]; !ok {
		out, err := exec.Command(p.path, append(slices.Clone(command), "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s --help: %v\n%s", p.path, key, err, out)
		}
		p.help[key] = string(out)
	}
	return p.help[key]
}

// subcommand returns the leading words of args that are commands, by following the help.
func (p *program) subcommand(t *testing.T, args []string) []string {
	t.Helper()
	var command []string
	for _, word := range args {
		if !regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(word) + ` +\S`).MatchString(p.usage(t, command)) {
			break
		}
		command = append(command, word)
	}
	return command
}

func TestEveryCommandAndFlagThatIsShownExists(t *testing.T) {
	dir := build(t)
	programs := map[string]*program{}
	for _, name := range binaries {
		programs[name] = &program{path: filepath.Join(dir, name), help: map[string]string{}}
	}
	checked := 0
	for _, page := range pages(t) {
		for _, words := range page.commands() {
			p := programs[words[0]]
			if p == nil || len(words) == 1 {
				continue
			}
			command := p.subcommand(t, words[1:])
			if len(command) == 0 {
				t.Errorf("%s: %q: no such command", page.path, strings.Join(words, " "))
				continue
			}
			checked++
			known := flag.FindAllStringSubmatch(p.usage(t, command), -1)
			for _, word := range words[1:] {
				name, _, _ := strings.Cut(word, "=")
				if !strings.HasPrefix(name, "-") || name == "-" {
					continue
				}
				if !slices.ContainsFunc(known, func(m []string) bool { return name == m[1] || name == m[2] }) {
					t.Errorf("%s: %q: no flag %s", page.path, strings.Join(words, " "), name)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("checked %d commands: the pages were not read", checked)
	}
}

func TestEveryMakeTargetThatIsShownExists(t *testing.T) {
	makefile := read(t, filepath.Join(root, "Makefile"))
	for _, page := range pages(t) {
		for _, words := range page.commands() {
			if words[0] != "make" || len(words) == 1 {
				continue
			}
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(words[1]) + `:`).MatchString(makefile) {
				t.Errorf("%s: no target %q", page.path, words[1])
			}
		}
	}
}

// fields lists the configuration of an agent as paths such as bgp.reflectors[].address.
func fields(prefix string, typ reflect.Type) []string {
	var all []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Slice && inner.Elem().PkgPath() == typ.PkgPath() {
			name, inner = name+"[]", inner.Elem()
		}
		if inner.PkgPath() == typ.PkgPath() && inner.Kind() == reflect.Struct {
			all = append(all, fields(prefix+name+".", inner)...)
		} else {
			all = append(all, prefix+name)
		}
	}
	return all
}

func TestTheReferenceOfTheAgentsConfigurationIsComplete(t *testing.T) {
	text := read(t, filepath.Join(root, "docs/operator.md"))
	_, section, _ := strings.Cut(text, "### agent.yaml")
	section, _, _ = strings.Cut(section, "\n### ")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		told = append(told, m[1])
	}
	if diff := cmp.Diff(fields("", reflect.TypeFor[agent.Config]()), told); diff != "" {
		t.Errorf("fields, in the order of agent.Config (-want +got):\n%s", diff)
	}
}

func TestTheConfigurationInTheReadmeIsValid(t *testing.T) {
	for i, text := range (page{text: read(t, filepath.Join(root, "README.md"))}).blocks("yaml") {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.LoadConfig(path); err != nil {
			t.Errorf("block %d: %v", i, err)
		}
	}
}

func TestEveryControllerIsTold(t *testing.T) {
	text := read(t, filepath.Join(root, "docs/architecture.md"))
	for _, graph := range []string{"controlplane/testdata/graph.txt", "agent/testdata/graph.txt"} {
		for line := range strings.Lines(read(t, filepath.Join(root, graph))) {
			name, _, _ := strings.Cut(line, " ")
			if !strings.Contains(text, "| `"+name+"` |") {
				t.Errorf("docs/architecture.md does not tell of %s in %s", name, graph)
			}
		}
	}
}

func TestTheListOfMetricsIsComplete(t *testing.T) {
	told := map[string]bool{}
	name := regexp.MustCompile(`ingot_[a-z_]+`)
	for _, m := range name.FindAllString(read(t, filepath.Join(root, "docs/operator.md")), -1) {
		told[m] = true
	}
	exported := map[string]bool{}
	literal := regexp.MustCompile(`"(ingot_[a-z_]+)"`)
	for _, file := range []string{"agent/metrics.go", "iri/machine/metrics.go", "controlplane/server/metrics.go"} {
		for _, m := range literal.FindAllStringSubmatch(read(t, filepath.Join(root, file)), -1) {
			exported[m[1]] = true
		}
	}
	if diff := cmp.Diff(exported, told); diff != "" {
		t.Errorf("metrics (-exported +told):\n%s", diff)
	}
}

func TestUnitsAreThoseThatAreShown(t *testing.T) {
	shown := (page{text: read(t, filepath.Join(root, "docs/operator.md"))}).blocks("ini")
	var units []string
	for _, name := range []string{"ingot-control", "ingot-agent"} {
		units = append(units, read(t, filepath.Join(root, "dist/systemd", name+".service")))
	}
	if diff := cmp.Diff(units, shown); diff != "" {
		t.Errorf("units (-dist/systemd +docs/operator.md):\n%s", diff)
	}
}

func TestExitCodesAreThoseOfTheCommandLine(t *testing.T) {
	out, err := exec.Command(filepath.Join(build(t), "ingot"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	help := strings.Join(strings.Fields(string(out)), " ")
	rows := regexp.MustCompile(`(?m)^\| (\d) \| ([^|]+) \|`).FindAllStringSubmatch(read(t, filepath.Join(root, "README.md")), -1)
	if len(rows) != 9 {
		t.Errorf("%d exit codes in README.md, want 9", len(rows))
	}
	for _, row := range rows {
		meaning, _, _ := strings.Cut(row[2], " for ")
		if want := row[1] + " " + strings.ReplaceAll(meaning, ", or", " or"); !strings.Contains(help, want) {
			t.Errorf("help does not say %q", want)
		}
	}
}

var reference = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range reference.FindAllStringSubmatch(page.text, -1) {
			target := page.path
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page.path), m[1])
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", page.path, m[1], err)
				continue
			}
			if m[2] != "" && !info.IsDir() && !slices.Contains(anchors(read(t, target)), m[2]) {
				t.Errorf("%s: no heading #%s in %s", page.path, m[2], target)
			}
		}
	}
}

// anchors are the headings of a page as GitHub names them.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		kept := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		all = append(all, kept)
	}
	return all
}

var sourcePath = regexp.MustCompile("`((?:agent|bpf|cmd|controlplane|dataplane|dist|examples|iri|routing|runtime|test)/[\\w./-]*)`")

func TestFilesThatAreNamedExist(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range sourcePath.FindAllStringSubmatch(page.text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s: %v", page.path, err)
			}
		}
	}
}
