/* Redirects the connections of a test suite to loopback servers through a proxy. run.py preloads
 * it and starts the proxies. Over the unix socket SUITES_BROKER, run.py receives each connection
 * with the test that made it (PYTEST_CURRENT_TEST), and answers with the port of the proxy to use,
 * or 0 for none. A connection whose first bytes are a TLS record is meant for a server with TLS,
 * which a proxy that listens without TLS cannot reach: it is replaced by a direct one. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

enum { DESCRIPTORS = 4096, PORTS = 65536 };

/* The state of a descriptor: whether its connection has sent nothing yet, and its epoll event. */
static struct {
  int unsent;
  int epoll;
  struct epoll_event event;
} known[DESCRIPTORS];

/* The server behind each proxy, by the proxy's port. */
static struct sockaddr_storage servers[PORTS];

static int real_connect(int fd, const struct sockaddr *address, socklen_t length) {
  REAL(connect);
  return real(fd, address, length);
}

static int real_peer(int fd, struct sockaddr *address, socklen_t *length) {
  REAL(getpeername);
  return real(fd, address, length);
}

/* Reports to run.py, and returns the port from its answer. */
static int tell(const char *what, const char *host, int port) {
  const char *path = getenv("SUITES_BROKER"), *test = getenv("PYTEST_CURRENT_TEST");
  struct sockaddr_un broker = {.sun_family = AF_UNIX};
  char line[4096], answer[16] = "";
  int answered = 0;
  if (!path || strlen(path) >= sizeof broker.sun_path) return 0;
  strcpy(broker.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  int length = snprintf(line, sizeof line, "%s\t%s\t%d\t%s\n", what, host, port, test ? test : "");
  if (length > 0 && length < (int)sizeof line &&
      !real_connect(fd, (struct sockaddr *)&broker, sizeof broker) &&
      send(fd, line, length, MSG_NOSIGNAL) == length &&
      recv(fd, answer, sizeof answer - 1, 0) > 0)
    answered = atoi(answer);
  close(fd);
  return answered;
}

/* Whether the address is a loopback address; stores its text in host and its port in port. */
static int loopback(const struct sockaddr *address, socklen_t length, char *host, int *port) {
  if (address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
    const struct sockaddr_in *v4 = (const void *)address;
    inet_ntop(AF_INET, &v4->sin_addr, host, INET6_ADDRSTRLEN);
    *port = ntohs(v4->sin_port);
    return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
  }
  if (address->sa_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
    const struct sockaddr_in6 *v6 = (const void *)address;
    inet_ntop(AF_INET6, &v6->sin6_addr, host, INET6_ADDRSTRLEN);
    *port = ntohs(v6->sin6_port);
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
  }
  return 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  char host[INET6_ADDRSTRLEN];
  int port, kind = 0, proxy;
  socklen_t size = sizeof kind;
  if (fd < 0 || fd >= DESCRIPTORS || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) ||
      kind != SOCK_STREAM || !loopback(address, length, host, &port))
    return real_connect(fd, address, length);
  int before = errno;
  proxy = tell("connect", host, port);
  errno = before;
  known[fd].unsent = 1;
  if (proxy <= 0 || proxy >= PORTS) return real_connect(fd, address, length);
  memcpy(&servers[proxy], address, length);
  struct sockaddr_storage instead = servers[proxy];
  if (address->sa_family == AF_INET)
    ((struct sockaddr_in *)&instead)->sin_port = htons(proxy);
  else
    ((struct sockaddr_in6 *)&instead)->sin6_port = htons(proxy);
  return real_connect(fd, (struct sockaddr *)&instead, length);
}

/* The server behind the proxy that the descriptor is connected to, or NULL. */
static struct sockaddr_storage *behind(int fd, socklen_t *length) {
  struct sockaddr_storage peer;
  char host[INET6_ADDRSTRLEN];
  int port;
  *length = sizeof peer;
  if (real_peer(fd, (struct sockaddr *)&peer, length) ||
      !loopback((struct sockaddr *)&peer, *length, host, &port))
    return NULL;
  return servers[port].ss_family ? &servers[port] : NULL;
}

/* Called before each send: checks whether the first bytes on a connection are a TLS record. */
static void sends(int fd, const void *bytes, size_t length) {
  char host[INET6_ADDRSTRLEN];
  int port, before = errno;
  socklen_t size;
  if (fd < 0 || fd >= DESCRIPTORS || !known[fd].unsent || !length) return;
  known[fd].unsent = 0;
  struct sockaddr_storage peer;
  size = sizeof peer;
  /* The descriptor of a connection that never sent may have been reused for another one. */
  if (*(const unsigned char *)bytes == 0x16 && !real_peer(fd, (struct sockaddr *)&peer, &size) &&
      loopback((struct sockaddr *)&peer, size, host, &port)) {
    struct sockaddr_storage *server = behind(fd, &size);
    tell("tls", host, port);
    int anew = server ? socket(server->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    if (anew >= 0 && !real_connect(anew, (struct sockaddr *)server, size)) {
      fcntl(anew, F_SETFL, fcntl(fd, F_GETFL));
      dup3(anew, fd, O_CLOEXEC);
      if (known[fd].epoll > 0)
        epoll_ctl(known[fd].epoll, EPOLL_CTL_ADD, fd, &known[fd].event);
    }
    if (anew >= 0) close(anew);
  }
  errno = before;
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
  REAL(send);
  sends(fd, bytes, length);
  return real(fd, bytes, length, flags);
}

ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write);
  sends(fd, bytes, length);
  return real(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
  REAL(writev);
  if (count > 0) sends(fd, pieces->iov_base, pieces->iov_len);
  return real(fd, pieces, count);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(sendmsg);
  if (message->msg_iovlen > 0)
    sends(fd, message->msg_iov->iov_base, message->msg_iov->iov_len);
  return real(fd, message, flags);
}

/* epoll watches the open file description, not the number, so a replaced connection must be added
 * again. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  REAL(epoll_ctl);
  if (fd >= 0 && fd < DESCRIPTORS) {
    known[fd].epoll = operation == EPOLL_CTL_DEL ? 0 : epoll;
    if (event) known[fd].event = *event;
  }
  return real(epoll, operation, fd, event);
}

/* Returns the address of the server instead of its proxy's. */
int getpeername(int fd, struct sockaddr *address, socklen_t *length) {
  socklen_t size;
  struct sockaddr_storage *server = behind(fd, &size);
  if (!server || !length) return real_peer(fd, address, length);
  memcpy(address, server, *length < size ? *length : size);
  *length = size;
  return 0;
}
