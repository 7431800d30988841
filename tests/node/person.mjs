// A person at a client on matrix-js-sdk, the engine of Element Web: signs in, and does what each line of its input
// says, a JSON object with `do` and `id`. It answers with a line for each. It joins nothing by itself.
import { createInterface } from "node:readline";
import { createClient } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.disableAll();
const [baseUrl, user] = process.argv.slice(2);
const password = process.env.PASSWORD;
const asked = [];
let client;

// What Element Web draws, and so takes for news: STATE_EVENT_TILE_TYPES and EVENT_TILE_TYPES of its EventTileFactory.tsx,
// less what eventTriggersUnreadCount in its Unread.ts leaves out.
const NEWS = new Set([
    "m.room.message",
    "m.sticker",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.poll.end",
    "org.matrix.msc3381.poll.end",
    "m.call.invite",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.history_visibility",
    "m.room.topic",
    "m.room.power_levels",
    "m.room.pinned_events",
    "m.room.tombstone",
    "m.room.join_rules",
    "m.room.guest_access",
]);

function isNews(event) {
    const mine = event.getSender() === client.getSafeUserId();
    return !mine && !event.isRedacted() && !event.isRelation("m.replace") && NEWS.has(event.getType());
}

// As Element Web draws a room bold: doesTimelineHaveUnreadMessages in its Unread.ts.
function newsOf(room) {
    const latest = room.getLiveTimeline().getEvents().findLast(isNews);
    if (!latest || room.isSpaceRoom()) return "";
    return room.hasUserReadEvent(client.getSafeUserId(), latest.getId()) ? "" : latest.getType();
}

function roomOf(room) {
    const state = room.getLiveTimeline().getState("f");
    return {
        room_id: room.roomId,
        name: room.name,
        membership: room.getMyMembership(),
        is_space: room.isSpaceRoom(),
        children: state
            .getStateEvents("m.space.child")
            .filter((event) => event.getContent().via?.length)
            .map((event) => event.getStateKey()),
        avatar: room.getMxcAvatarUrl(),
        tags: Object.keys(room.tags),
        unread: room.getUnreadNotificationCount("total"),
        news: newsOf(room),
    };
}

function eventOf(event) {
    const sender = client.getRoom(event.getRoomId()).getMember(event.getSender());
    return {
        event_id: event.getId(),
        room_id: event.getRoomId(),
        type: event.getType(),
        sender: event.getSender(),
        sender_name: sender?.name,
        sender_avatar: sender?.getMxcAvatarUrl() ?? null,
        body: event.getContent().body ?? "",
        in_reply_to: event.replyEventId ?? null,
        thread: event.threadRootId ?? null,
        key: event.getRelation()?.key ?? null,
    };
}

function eventsOf(roomId) {
    const room = client.getRoom(roomId);
    return room ? [...room.getLiveTimeline().getEvents(), ...room.getThreads().flatMap((thread) => thread.events)] : [];
}

const deeds = {
    async rooms() {
        return client.getRooms().map(roomOf);
    },
    async asked() {
        return asked;
    },
    async events({ room }) {
        return eventsOf(room).map(eventOf);
    },
    async say({ room, body }) {
        return (await client.sendTextMessage(room, body)).event_id;
    },
    async edit({ room, event, body }) {
        const content = { msgtype: "m.text", body };
        const edit = {
            ...content,
            body: `* ${body}`,
            "m.new_content": content,
            "m.relates_to": { rel_type: "m.replace", event_id: event },
        };
        return (await client.sendMessage(room, edit)).event_id;
    },
    async reply({ room, event, body }) {
        const relation = { "m.in_reply_to": { event_id: event } };
        return (await client.sendMessage(room, { msgtype: "m.text", body, "m.relates_to": relation })).event_id;
    },
    async thread({ room, event, body }) {
        return (await client.sendMessage(room, event, { msgtype: "m.text", body })).event_id;
    },
    async react({ room, event, key }) {
        const relation = { rel_type: "m.annotation", event_id: event, key };
        return (await client.sendEvent(room, "m.reaction", { "m.relates_to": relation })).event_id;
    },
    async file({ room, name, text }) {
        const { content_uri: url } = await client.uploadContent(Buffer.from(text), { name, type: "text/plain" });
        const info = { mimetype: "text/plain", size: Buffer.byteLength(text) };
        return (await client.sendMessage(room, { msgtype: "m.file", body: name, filename: name, url, info })).event_id;
    },
};

function noting(resource, options) {
    const url = new URL(resource instanceof Request ? resource.url : resource);
    asked.push(`${options?.method ?? "GET"} ${decodeURIComponent(url.pathname)}`);
    return fetch(resource, options);
}

const login = await createClient({ baseUrl }).loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
    initial_device_display_name: "a browser",
});
client = createClient({
    baseUrl,
    userId: login.user_id,
    deviceId: login.device_id,
    accessToken: login.access_token,
    timelineSupport: true,
    fetchFn: noting,
});
const isPrepared = new Promise((resolve) => client.on("sync", (state) => state === "PREPARED" && resolve()));
await client.startClient({ initialSyncLimit: 50, threadSupport: true });
await isPrepared;
console.log(JSON.stringify({ id: 0, done: login.user_id }));

for await (const line of createInterface({ input: process.stdin })) {
    const { id, do: deed, ...given } = JSON.parse(line);
    try {
        console.log(JSON.stringify({ id, done: await deeds[deed](given) }));
    } catch (error) {
        console.log(JSON.stringify({ id, failed: String(error) }));
    }
}
client.stopClient();
process.exit(0);
