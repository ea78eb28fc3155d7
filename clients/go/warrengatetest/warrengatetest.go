// Package warrengatetest creates a new tenant for each test on a development stack.
//
// The stack is `warrengate dev` from PATH or WARRENGATE_BINARY, on free ports, or the gateway of
// WARRENGATE_TEST_ENDPOINT, WARRENGATE_TEST_CA and WARRENGATE_TEST_ADMIN_SECRET. Call Main from TestMain to start it
// once for a package:
//
//	func TestMain(m *testing.M) { warrengatetest.Main(m) }
//
//	func TestOrders(t *testing.T) {
//		client := warrengatetest.NewTenant(t).Connect(t)
//		...
//	}
package warrengatetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	warrengate "github.com/warrengate/warrengate/clients/go"
	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

const (
	startTimeout = 3 * time.Minute
	stopTimeout  = time.Minute
	callTimeout  = 30 * time.Second
)

// Tenant is a tenant, with a client that has every grant.
type Tenant struct {
	// Name is the tenant's id.
	Name string
	// Config is the configuration of its client.
	Config warrengate.Config
}

// Env returns the variables that warrengate.FromEnv reads, for programs under test.
func (t *Tenant) Env() []string {
	return []string{
		"WARRENGATE_ENDPOINT=" + t.Config.Endpoint, "WARRENGATE_CA=" + t.Config.CAFile,
		"WARRENGATE_CLIENT_ID=" + t.Config.ClientID, "WARRENGATE_CLIENT_SECRET=" + t.Config.ClientSecret,
	}
}

// Connect connects the tenant's client, and closes it after the test.
func (t *Tenant) Connect(tb testing.TB) *warrengate.Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	client, err := warrengate.Connect(ctx, t.Config)
	if err != nil {
		tb.Fatalf("connecting as %s: %s", t.Config.ClientID, err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_ = client.Close(ctx)
	})
	return client
}

// stack is a gateway and its administrator.
type stack struct {
	endpoint, ca string
	admin        *warrengate.Client
	stop         func()
}

var (
	sharedLock sync.Mutex
	shared     *stack
)

// Main starts the stack, runs the tests of a package, stops it, and exits. Without it, each test that needs a tenant
// while no other test has one starts a separate stack.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	started, err := start()
	if err != nil {
		slog.Error("the development stack did not start", "error", err)
		return 1
	}
	defer started.close()
	sharedLock.Lock()
	shared = started
	sharedLock.Unlock()
	return m.Run()
}

// NewTenant creates a tenant, and deletes it after the test.
func NewTenant(tb testing.TB) *Tenant {
	tb.Helper()
	sharedLock.Lock()
	used := shared
	sharedLock.Unlock()
	if used == nil {
		var err error
		if used, err = start(); err != nil {
			tb.Fatalf("the development stack did not start: %s", err)
		}
		tb.Cleanup(used.close)
	}
	tenant, err := used.create()
	if err != nil {
		tb.Fatalf("creating a tenant: %s", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		if _, err := used.admin.Admin().DeleteTenant(ctx, &pb.DeleteTenantRequest{Tenant: tenant.Name}); err != nil {
			tb.Errorf("deleting the tenant: %s", err)
		}
	})
	return tenant
}

func (s *stack) create() (*Tenant, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	suffix := make([]byte, 6)
	_, _ = rand.Read(suffix)
	name := "test-" + hex.EncodeToString(suffix)
	_, err := s.admin.Admin().CreateTenant(ctx, &pb.CreateTenantRequest{Tenant: &pb.Tenant{Id: name, Plan: "unlimited"}})
	if err != nil {
		return nil, err
	}
	grants := &pb.Grants{
		Publish:   []*pb.PublishGrant{{Exchange: "#", RoutingKey: "#"}},
		Subscribe: []string{"#"}, Configure: []string{"#"},
	}
	created, err := s.admin.Admin().CreateClient(ctx, &pb.CreateClientRequest{Client: &pb.Client{ClientId: name + ".app", Grants: grants}})
	if err != nil {
		return nil, err
	}
	return &Tenant{Name: name, Config: warrengate.Config{
		Endpoint: s.endpoint, CAFile: s.ca, ClientID: name + ".app", ClientSecret: created.GetClientSecret(),
	}}, nil
}

func (s *stack) close() {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_ = s.admin.Close(ctx)
	s.stop()
}

func start() (*stack, error) {
	endpoint, ca, secret := os.Getenv("WARRENGATE_TEST_ENDPOINT"), os.Getenv("WARRENGATE_TEST_CA"), os.Getenv("WARRENGATE_TEST_ADMIN_SECRET")
	stop := func() {}
	if endpoint == "" {
		settings, end, err := startDevelopment()
		if err != nil {
			return nil, err
		}
		endpoint, ca, secret, stop = settings["WARRENGATE_ENDPOINT"], settings["WARRENGATE_CA"], settings["WARRENGATE_ADMIN_CLIENT_SECRET"], end
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	admin, err := warrengate.Connect(ctx, warrengate.Config{Endpoint: endpoint, CAFile: ca, ClientID: "admin", ClientSecret: secret})
	if err != nil {
		stop()
		return nil, err
	}
	return &stack{endpoint: endpoint, ca: ca, admin: admin, stop: stop}, nil
}

// startDevelopment starts `warrengate dev` in a separate folder, and reads the settings that it has written.
func startDevelopment() (map[string]string, func(), error) {
	binary := os.Getenv("WARRENGATE_BINARY")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("warrengate"); err != nil {
			return nil, nil, errors.New("there is no `warrengate` in PATH, and WARRENGATE_BINARY is not set")
		}
	}
	folder, err := os.MkdirTemp("", "warrengate-test-")
	if err != nil {
		return nil, nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, nil, err
	}
	command := exec.Command(binary, "dev", //nolint:gosec // the binary is the user's choice
		"--grpc", "127.0.0.1:"+ports[0], "--ops", "127.0.0.1:"+ports[1], "--amqps-port", ports[2], "--management-port", ports[3])
	command.Dir = folder
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "WARRENGATE_") {
			command.Env = append(command.Env, variable)
		}
	}
	output, input, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	command.Stdout, command.Stderr = input, input
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	_ = input.Close()
	exited := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(exited)
	}()
	stop := func() {
		_ = command.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(stopTimeout):
			_ = command.Process.Kill()
			<-exited
		}
		_ = os.RemoveAll(folder)
	}
	if err := waitUntilReady(output, exited); err != nil {
		stop()
		return nil, nil, err
	}
	settings, err := readSettings(folder)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return settings, stop, nil
}

// waitUntilReady reads the output until the gateway reports how to stop it, and continues to read it.
func waitUntilReady(output *os.File, exited <-chan struct{}) error {
	ready, lines := make(chan struct{}), make(chan string, 1)
	go func() {
		defer func() { _ = output.Close() }()
		var log bytes.Buffer
		announced := false
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			if announced {
				continue
			}
			fmt.Fprintln(&log, scanner.Text())
			if strings.Contains(scanner.Text(), "Ctrl-C") {
				announced = true
				close(ready)
			}
		}
		lines <- log.String()
	}()
	select {
	case <-ready:
		return nil
	case <-exited:
		return fmt.Errorf("`warrengate dev` ended:\n%s", <-lines)
	case <-time.After(startTimeout):
		return errors.New("`warrengate dev` is not ready in time")
	}
}

func readSettings(folder string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, ".warrengate", "dev.env"))
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if found && !strings.HasPrefix(name, "#") {
			settings[name] = strings.Trim(value, `'"`)
		}
	}
	if ca := settings["WARRENGATE_CA"]; !filepath.IsAbs(ca) {
		settings["WARRENGATE_CA"] = filepath.Join(folder, ca)
	}
	return settings, nil
}

func freePorts(count int) ([]string, error) {
	var ports []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
