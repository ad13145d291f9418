/* ops.c - the table of operations: which handler answers which frame type. */
#include "daemon/call.h"

static const struct op ops[] = {
    {HRT_HELLO, "HELLO", op_hello},
    {HRT_PING, "PING", op_ping},
    {HRT_STATUS, "STATUS", op_status},
    {HRT_MODEL_LIST, "MODEL_LIST", op_model_list},
    {HRT_MODEL_SHOW, "MODEL_SHOW", op_model_show},
    {HRT_MODEL_LOAD, "MODEL_LOAD", op_model_load},
    {HRT_MODEL_UNLOAD, "MODEL_UNLOAD", op_model_unload},
    {HRT_SESSION_OPEN, "SESSION_OPEN", op_session_open},
    {HRT_SESSION_LIST, "SESSION_LIST", op_session_list},
    {HRT_SESSION_SHOW, "SESSION_SHOW", op_session_show},
    {HRT_SESSION_FORK, "SESSION_FORK", op_session_fork},
    {HRT_SESSION_REWIND, "SESSION_REWIND", op_session_rewind},
    {HRT_SESSION_RENAME, "SESSION_RENAME", op_session_rename},
    {HRT_SESSION_PIN, "SESSION_PIN", op_session_pin},
    {HRT_SESSION_REMOVE, "SESSION_REMOVE", op_session_remove},
    {HRT_SESSION_EXPORT, "SESSION_EXPORT", op_unimplemented},
    {HRT_SESSION_IMPORT, "SESSION_IMPORT", op_unimplemented},
    {HRT_SESSION_PREFETCH, "SESSION_PREFETCH", op_unimplemented},
    {HRT_TOKENIZE, "TOKENIZE", op_tokenize},
    {HRT_DETOKENIZE, "DETOKENIZE", op_detokenize},
    {HRT_COUNT, "COUNT", op_count},
    {HRT_START, "START", op_start},
    {HRT_NEXT, "NEXT", op_next},
    {HRT_CANCEL, "CANCEL", op_cancel},
    {HRT_WHY, "WHY", op_unimplemented},
    {HRT_METRICS, "METRICS", op_metrics},
    {HRT_EVENTS, "EVENTS", op_unimplemented},
};

const struct op *ops_find(uint8_t type)
{
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i].type == type)
            return &ops[i];
    return NULL;
}
