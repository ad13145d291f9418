/* wire.h - frames from a test's side of a socket: blocking, with a deadline. */
#ifndef TESTS_DAEMON_WIRE_H
#define TESTS_DAEMON_WIRE_H
#include "proto.h"
#include "tests/t.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { WIRE_WAIT_MS = 10000 * T_SLOWER };

struct wire_reply {
    struct hrt_frame f;
    cJSON *json;
    uint8_t *tail;
};
__attribute__((unused)) static void wire_reply_fini(struct wire_reply *r)
{
    cJSON_Delete(r->json);
    free(r->tail);
    *r = (struct wire_reply){0};
}
__attribute__((unused)) static bool wire_write(int fd, const void *p, size_t n)
{
    const char *c = p;

    while (n) {
        struct pollfd w = {.fd = fd, .events = POLLOUT};
        ssize_t k;

        if (poll(&w, 1, WIRE_WAIT_MS) != 1)
            return false;
        k = send(fd, c, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0 && errno != EAGAIN)
            return false;
        if (k > 0) {
            c += k;
            n -= (size_t)k;
        }
    }
    return true;
}
__attribute__((unused)) static bool wire_read(int fd, void *p, size_t n)
{
    char *c = p;

    while (n) {
        struct pollfd w = {.fd = fd, .events = POLLIN};
        ssize_t k;

        if (poll(&w, 1, WIRE_WAIT_MS) != 1)
            return false;
        k = recv(fd, c, n, 0);
        if (k <= 0)
            return false;
        c += k;
        n -= (size_t)k;
    }
    return true;
}
/* One request as bytes; free() it. */
__attribute__((unused)) static uint8_t *wire_frame(uint8_t type, uint64_t id, const char *json,
                                                   const void *tail, size_t tail_bytes,
                                                   size_t *ret_bytes)
{
    size_t n = json ? strlen(json) : 0;
    uint8_t *b = malloc(HRT_HEAD_BYTES + n + tail_bytes);
    struct hrt_frame f = {
        .type = type, .json_len = (uint32_t)n, .tail_len = (uint32_t)tail_bytes, .id = id};

    hrt_pack(b, &f);
    if (n)
        memcpy(b + HRT_HEAD_BYTES, json, n);
    if (tail_bytes)
        memcpy(b + HRT_HEAD_BYTES + n, tail, tail_bytes);
    *ret_bytes = HRT_HEAD_BYTES + n + tail_bytes;
    return b;
}
__attribute__((unused)) static bool wire_send(int fd, uint8_t type, uint64_t id,
                                              const char *json, const void *tail,
                                              size_t tail_bytes)
{
    size_t n;
    uint8_t *b = wire_frame(type, id, json, tail, tail_bytes, &n);
    bool ok = wire_write(fd, b, n);

    free(b);
    return ok;
}
/* false: the peer closed, or said nothing in time, or something that is no frame. */
__attribute__((unused)) static bool wire_recv(int fd, struct wire_reply *ret)
{
    uint8_t h[HRT_HEAD_BYTES];
    struct wire_reply r = {0};
    char *json;

    if (!wire_read(fd, h, sizeof h) || hrt_unpack(&r.f, h, NULL) < 0 ||
        !(r.f.flags & HRT_REPLY))
        return false;
    json = calloc(1, r.f.json_len + 1);
    r.tail = malloc(r.f.tail_len + 1);
    if (!wire_read(fd, json, r.f.json_len) || !wire_read(fd, r.tail, r.f.tail_len)) {
        free(json);
        free(r.tail);
        return false;
    }
    r.json = cJSON_Parse(json);
    free(json);
    *ret = r;
    return r.json != NULL;
}
__attribute__((unused)) static const char *wire_str(const struct wire_reply *r,
                                                    const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->json, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}
__attribute__((unused)) static double wire_num(const struct wire_reply *r, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->json, name);

    return cJSON_IsNumber(v) ? v->valuedouble : -1;
}
__attribute__((unused)) static int wire_connect(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof a.sun_path)
        return -1;
    memcpy(a.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

#endif
