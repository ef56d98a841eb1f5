package main

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Limits of a chat message, in characters. A body may escape each of them (%F0%9F%98%80), hence the room.
const (
	maxChatFrom = 40
	maxChatText = 500
	maxChatBody = 8 << 10
)

// chatMessage is what is posted to /chat, as JSON or as a form of the same names, and the data of the event that
// follows from it.
type chatMessage struct {
	From string `json:"from"`
	Text string `json:"text"`
}

// postChat sends a message to who reads /chat.
func (a *app) postChat(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxChatBody)
	msg, status := readChat(r)
	if status != http.StatusOK {
		http.Error(w, http.StatusText(status), status)
		return
	}
	data, err := json.Marshal(msg) // one line, whatever the text has in it
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	a.chat.publish(func(int) string { return "data: " + string(data) + "\n\n" })
	w.WriteHeader(http.StatusNoContent)
}

// readChat returns the posted message and 200, or the status to refuse it with.
func readChat(r *http.Request) (chatMessage, int) {
	var msg chatMessage
	var err error
	switch mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType {
	case "application/json":
		err = json.NewDecoder(r.Body).Decode(&msg)
	case "application/x-www-form-urlencoded":
		err = r.ParseForm()
		msg = chatMessage{From: r.PostForm.Get("from"), Text: r.PostForm.Get("text")}
	default:
		return msg, http.StatusUnsupportedMediaType
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return msg, http.StatusRequestEntityTooLarge
	}
	if err != nil {
		return msg, http.StatusBadRequest
	}

	msg.From, msg.Text = strings.TrimSpace(msg.From), strings.TrimSpace(msg.Text)
	if msg.From == "" {
		msg.From = "somebody"
	}
	switch {
	case msg.Text == "":
		return msg, http.StatusBadRequest
	case utf8.RuneCountInString(msg.From) > maxChatFrom, utf8.RuneCountInString(msg.Text) > maxChatText:
		return msg, http.StatusRequestEntityTooLarge
	}
	return msg, http.StatusOK
}
