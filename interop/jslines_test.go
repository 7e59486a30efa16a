package interop

// jsRequest is a line to js/driver.js. In all lines, []byte travels as base64.
type jsRequest struct {
	ID       int            `json:"id"`
	Op       string         `json:"op"`
	Client   int            `json:"client"`
	URL      string         `json:"url,omitempty"`
	Options  map[string]any `json:"options,omitempty"`
	Will     *jsMessage     `json:"will,omitempty"`
	Withhold bool           `json:"withhold,omitempty"`
	Filters  []string       `json:"filters,omitempty"`
	QoS      byte           `json:"qos"`
	Message  *jsMessage     `json:"message,omitempty"`
}

// jsReply is a line from js/driver.js: the answer to a request, or a message for a client.
type jsReply struct {
	ID      int        `json:"id"` // of the request; 0 for a message
	Error   string     `json:"error"`
	Code    int        `json:"code"`
	Present bool       `json:"present"`
	Client  int        `json:"client"`
	Message *jsMessage `json:"message"`
}

type jsMessage struct {
	Name    string  `json:"name"`
	Payload []byte  `json:"payload"`
	QoS     byte    `json:"qos"`
	Retain  bool    `json:"retain"`
	Props   jsProps `json:"props"`
}

type jsProps struct {
	ContentType   string   `json:"contentType,omitempty"`
	ResponseTopic string   `json:"responseTopic,omitempty"`
	Correlation   []byte   `json:"correlation,omitempty"`
	User          []jsPair `json:"user,omitempty"`
}

type jsPair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func jsFrom(m *message) *jsMessage {
	if m == nil {
		return nil
	}
	j := &jsMessage{Name: m.name, Payload: []byte(m.payload), QoS: m.qos, Retain: m.retain}
	j.Props = jsProps{ContentType: m.props.contentType, ResponseTopic: m.props.responseTopic, Correlation: []byte(m.props.correlation)}
	for _, u := range m.props.user {
		j.Props.User = append(j.Props.User, jsPair{u.key, u.value})
	}
	return j
}

func (j *jsMessage) message() message {
	m := message{name: j.Name, payload: string(j.Payload), qos: j.QoS, retain: j.Retain}
	m.props = properties{contentType: j.Props.ContentType, responseTopic: j.Props.ResponseTopic, correlation: string(j.Props.Correlation)}
	for _, u := range j.Props.User {
		m.props.user = append(m.props.user, property{u.Key, u.Value})
	}
	return m
}
