/* openai.h - the OpenAI dialect: chat completions and models.
 *
 * What asks for something that cannot be given is refused by its name; what changes nothing
 * about the answer is taken.  A hint that has no effect here is named in the answer, under
 * hearth.ignored: nothing is dropped silently. */
#ifndef FRONT_OPENAI_H
#define FRONT_OPENAI_H
#include "base/err.h"
#include "daemon/front/http.h"
#include <cjson/cJSON.h>
#include <stdbool.h>

struct openai_req {
    char id[33];     /* START's id, and the stream's */
    char *start;     /* START's JSON, malloc'd */
    char model[256]; /* as asked; "" when absent */
    bool stream, include_usage, logprobs;
    uint32_t top_logprobs;
    char ignored[512]; /* names with quotes and commas between, as many as there is room for */
    char *metadata;    /* JSON, malloc'd, given back with the answer; NULL: none */
};
void openai_req_fini(struct openai_req *q);
/* What a 400 says. param "": none. */
struct openai_error {
    int code; /* HTTP */
    const char *slug;
    char param[96];
    char message[512];
};
/* body: the parsed request. 0, or -EINVAL with err filled and nothing to be freed. */
/* A seed may have more digits than a double holds: it becomes a raw item, its own text.  Before
 * openai_parse; text: what body was parsed from. */
void openai_exact(cJSON *body, const char *text, size_t n);
int openai_parse(const cJSON *body, struct openai_req *ret, struct openai_error *err);
/* {"error":{"message","type","code","param"}}; malloc'd. */
char *openai_error_json(int code, const char *slug, const char *param, const char *message);

/* The endpoints; each answers x sooner or later. */
void openai_chat(struct hx *x, const char *body, size_t n);
void openai_models(struct hx *x, const char *id); /* id NULL: all */
void openai_fail(struct hx *x, int code, const char *slug, const char *param,
                 const char *message, uint32_t retry_after_ms);
/* The same as the last event of a stream. */
void openai_fail_event(struct hx *x, int code, const char *slug, const char *message);

#endif
