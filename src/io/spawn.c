/* Starting programs; see spawn.h. */
#include "io/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COMMAND_MAX = 64 * 1024 };

struct Spawner {
    int socket;
    pid_t pid;
};

static int start_child(const char *command, int fd, int as, pid_t *ret_child)
{
    char *argv[] = { (char *)"sh", (char *)"-c", (char *)command, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t signals;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, as);
    posix_spawnattr_init(&attr);
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attr, &signals);
    sigaddset(&signals, SIGPIPE);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    posix_spawnattr_setsigdefault(&attr, &signals);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int rc = posix_spawn(ret_child, "/bin/sh", &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return rc;
}

static int wait_for(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return -1;
        }
    }
    return status;
}

/* --- the spawner's process --- */

typedef struct Request {
    char command[COMMAND_MAX + 2]; /* the first byte is the descriptor's number */
    int fds[2];                    /* the program's descriptor, where its status goes */
} Request;

static bool receive(int socket, Request *request)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec iov = { request->command, COMMAND_MAX + 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
    ssize_t got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

    if (got < 2 || !cmsg || cmsg->cmsg_len != CMSG_LEN(2 * sizeof(int))) {
        return false;
    }
    memcpy(request->fds, CMSG_DATA(cmsg), sizeof(request->fds));
    request->command[got] = '\0';
    return true;
}

/* One process a program, which waits for it. */
static void carry_out(const Request *request)
{
    pid_t child;
    int status = -1;

    signal(SIGCHLD, SIG_DFL);
    if (start_child(request->command + 1, request->fds[0], request->command[0], &child) == 0) {
        close(request->fds[0]);
        status = wait_for(child);
    }
    ssize_t done = write(request->fds[1], &status, sizeof(status));
    _exit(done == sizeof(status) ? 0 : 1);
}

static void serve(int socket)
{
    static Request request;

    signal(SIGCHLD, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    prctl(PR_SET_NAME, "spawner");
    while (receive(socket, &request)) {
        if (fork() == 0) {
            carry_out(&request);
        }
        close(request.fds[0]);
        close(request.fds[1]);
    }
    _exit(0);
}

/* --- this side --- */

Error *spawner_new(Spawner **ret_spawner)
{
    int pair[2];
    char ready = 0;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_new_errno(errno, "cannot make a socket pair");
    }
    pid_t pid = fork();
    if (pid == 0) {
        /* Images, listeners and their locks are not kept by it. */
        if (pair[1] > 3) {
            close_range(3, (unsigned)pair[1] - 1, 0);
        }
        close_range((unsigned)pair[1] + 1, ~0u, 0);
        if (write(pair[1], &ready, 1) == 1) {
            serve(pair[1]);
        }
        _exit(1);
    }
    int problem = pid < 0 ? errno : ECHILD;
    close(pair[1]);
    ssize_t got;
    do { /* until then it holds the locks of images, too */
        got = read(pair[0], &ready, 1);
    } while (got < 0 && errno == EINTR);
    if (got != 1) {
        close(pair[0]);
        return error_new_errno(problem, "cannot start the process that starts programs");
    }
    *ret_spawner = g_new0(Spawner, 1);
    **ret_spawner = (Spawner) { pair[0], pid };
    return NULL;
}

void spawner_free(Spawner *spawner)
{
    if (spawner) {
        close(spawner->socket); /* which it notices */
        g_free(spawner);
    }
}

static MUST_USE Error *send_request(Spawner *spawner, const char *command, int fd, int as, int status_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = { 0 };
    char number = (char)as;
    int fds[2] = { fd, status_fd };
    struct iovec iov[2] = { { &number, 1 }, { (void *)command, strlen(command) } };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

    *cmsg = (struct cmsghdr) { .cmsg_len = CMSG_LEN(sizeof(fds)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
    memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));
    if (sendmsg(spawner->socket, &msg, MSG_NOSIGNAL) < 0) {
        return error_new_errno(errno, "cannot run '%s': the process that starts programs is gone", command);
    }
    return NULL;
}

Error *spawn_shell(Spawner *spawner, const char *command, int fd, int as, SpawnedProgram *ret_program)
{
    int status[2];
    pid_t child;

    if (!spawner) {
        int rc = start_child(command, fd, as, &child);
        if (rc) {
            return error_new_errno(rc, "cannot run '%s'", command);
        }
        *ret_program = (SpawnedProgram) { child, -1 };
        return NULL;
    }
    if (strlen(command) > COMMAND_MAX || *command == '\0') {
        return error_new("a command has 1 to %d characters", COMMAND_MAX);
    }
    if (pipe2(status, O_CLOEXEC) < 0) {
        return error_new_errno(errno, "cannot make a pipe");
    }
    Error *err = send_request(spawner, command, fd, as, status[1]);
    close(status[1]);
    if (err) {
        close(status[0]);
        return err;
    }
    *ret_program = (SpawnedProgram) { 0, status[0] };
    return NULL;
}

int spawn_wait(SpawnedProgram *program)
{
    int status = 0;

    if (program->child) {
        status = wait_for(program->child);
    } else if (program->status_fd > 0) {
        ssize_t got;
        while ((got = read(program->status_fd, &status, sizeof(status))) < 0 && errno == EINTR) {
        }
        status = got == sizeof(status) ? status : -1;
        close(program->status_fd);
    }
    *program = (SpawnedProgram) { 0 };
    return status;
}

void spawn_abandon(SpawnedProgram *program)
{
    if (program->child > 0) {
        kill(program->child, SIGKILL);
        spawn_wait(program);
    } else if (program->status_fd > 0) {
        close(program->status_fd);
    }
}
