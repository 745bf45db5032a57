package net

// The counterpart of interposer.c for Go: run.py adds this file to package net, and patches
// tls.NewListener to call SuitesTLS for its listeners, to which connections stay direct.

import (
	"internal/itoa"
	"os"
	"sync"
	"syscall"
)

var suitesTLS sync.Map

// SuitesTLS records that a listener expects TLS.
func SuitesTLS(address Addr) {
	if tcp, ok := address.(*TCPAddr); ok {
		suitesTLS.Store(tcp.Port, true)
	}
}

func init() {
	connectFunc = func(fd int, server syscall.Sockaddr) error {
		switch server := server.(type) {
		case *syscall.SockaddrInet4:
			if server.Addr[0] == 127 {
				return syscall.Connect(fd, &syscall.SockaddrInet4{
					Addr: server.Addr,
					Port: suitesPort(IP(server.Addr[:]), server.Port),
				})
			}
		case *syscall.SockaddrInet6:
			if IP(server.Addr[:]).IsLoopback() {
				return syscall.Connect(fd, &syscall.SockaddrInet6{
					Addr: server.Addr,
					Port: suitesPort(IP(server.Addr[:]), server.Port),
				})
			}
		}
		return syscall.Connect(fd, server)
	}
}

// suitesPort returns the port to connect to instead of a server's.
func suitesPort(host IP, port int) int {
	if _, ok := suitesTLS.Load(port); ok {
		return port
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return port
	}
	defer syscall.Close(fd)
	if syscall.Connect(fd, &syscall.SockaddrUnix{Name: os.Getenv("SUITES_BROKER")}) != nil {
		return port
	}
	line := "connect\t" + host.String() + "\t" + itoa.Itoa(port) + "\t" + os.Getenv("SUITES_TEST") + "\n"
	if _, err := syscall.Write(fd, []byte(line)); err != nil {
		return port
	}
	answer := make([]byte, 16)
	n, err := syscall.Read(fd, answer)
	if err != nil || n <= 0 {
		return port
	}
	if proxy, _, ok := dtoi(string(answer[:n])); ok && proxy > 0 {
		return proxy
	}
	return port
}
